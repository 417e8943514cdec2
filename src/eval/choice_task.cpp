#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include <nlohmann/json.hpp>

#include "eval/python_text.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/eval/choice.h"

namespace fbi::eval {
namespace {

using Json = nlohmann::json;

constexpr const char* kDelimiter = " ";  // between a context and its choices, as in the harness

struct BadField {
  std::string message;
};

const Json& field(const Json& line, const char* name) {
  const auto found = line.find(name);
  if (found != line.end()) return *found;
  std::vector<std::string> there;
  for (const auto& [key, value] : line.items()) there.push_back(key);
  throw BadField{concat("field ", name, " is missing, found are ",
                        there.empty() ? "none" : join(there),
                        "; docs/evaluation.md has the fields of each form")};
}

std::string text_field(const Json& line, const char* name) {
  const Json& value = field(line, name);
  if (!value.is_string()) throw BadField{concat("field ", name, ": expected a text")};
  return value.get<std::string>();
}

std::vector<std::string> texts(const Json& list, const char* name) {
  std::vector<std::string> result;
  if (!list.is_array()) throw BadField{concat("field ", name, ": expected a list of texts")};
  for (const Json& value : list) {
    if (!value.is_string()) throw BadField{concat("field ", name, ": expected a list of texts")};
    result.push_back(value.get<std::string>());
  }
  return result;
}

/// A number, a number as text, or true and false.
std::int64_t index_field(const Json& line, const char* name) {
  const Json& value = field(line, name);
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_unsigned()) return value.get<std::int64_t>();
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (text.size() == 1 && text[0] >= '0' && text[0] <= '9') return text[0] - '0';
  }
  throw BadField{
      concat("field ", name, ": expected the position of a choice, found ", value.dump())};
}

ChoiceItem item_of(const std::string& context, const std::vector<std::string>& choices,
                   std::int64_t gold) {
  ChoiceItem item;
  item.gold = gold;
  for (const std::string& choice : choices) {
    item.choices.push_back({context, concat(kDelimiter, choice)});
    item.characters.push_back(count_characters(choice));
  }
  return item;
}

ChoiceItem plain(const Json& line) {
  const std::string context = text_field(line, "context");
  const std::vector<std::string> choices = texts(field(line, "choices"), "choices");
  return item_of(context, choices, index_field(line, "gold"));
}

/// Passages of SuperGLUE, which the harness takes, begin with their title; BoolQ as its authors
/// publish it, with `answer`, has it apart, and google/boolq of the hub not at all.
ChoiceItem boolq(const Json& line) {
  const bool published = !line.contains("label") && line.contains("answer");
  if (published && !line.contains("title"))
    throw BadField{
        "with the field answer, field title is needed, for the harness's passages begin with it: "
        "take aps/super_glue, boolq, whose fields are passage, question and label"};
  const std::string passage = text_field(line, "passage");
  const std::string context =
      concat(published ? concat(text_field(line, "title"), " -- ", passage) : passage,
             "\nQuestion: ", text_field(line, "question"), "?\nAnswer:");
  return item_of(context, {"no", "yes"}, index_field(line, published ? "answer" : "label"));
}

ChoiceItem piqa(const Json& line) {
  return item_of(concat("Question: ", text_field(line, "goal"), "\nAnswer:"),
                 {text_field(line, "sol1"), text_field(line, "sol2")}, index_field(line, "label"));
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

/// Removes the marks that WikiHow articles left.
std::string hellaswag_text(const std::string& raw) {
  std::string text(strip(raw));
  replace_all(text, " [title]", ". ");
  // Every "[" up to the next "]" of the same line.
  std::string kept;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t close = text[at] == '[' ? text.find_first_of("]\n", at) : std::string::npos;
    if (close != std::string::npos && text[close] == ']') {
      at = close + 1;
    } else {
      kept += text[at++];
    }
  }
  replace_all(kept, "  ", " ");
  return kept;
}

ChoiceItem hellaswag(const Json& line) {
  const std::string context =
      concat(text_field(line, "activity_label"), ": ", text_field(line, "ctx_a"), " ",
             capitalize(text_field(line, "ctx_b")));
  std::vector<std::string> endings = texts(field(line, "endings"), "endings");
  for (std::string& ending : endings) ending = hellaswag_text(ending);
  return item_of(hellaswag_text(context), endings, index_field(line, "label"));
}

/// The sentence up to its gap filled with an option is the context, what follows the gap the
/// continuation of both.
ChoiceItem winogrande(const Json& line) {
  const std::string sentence = text_field(line, "sentence");
  const std::size_t gap = sentence.find('_');
  if (gap == std::string::npos) throw BadField{"field sentence: expected a gap _"};
  ChoiceItem item;
  for (const char* option : {"option1", "option2"}) {
    const std::string context = sentence.substr(0, gap) + text_field(line, option);
    item.choices.push_back(
        {context, concat(kDelimiter, strip(std::string_view(sentence).substr(gap + 1)))});
    item.characters.push_back(count_characters(context));
  }
  item.gold = index_field(line, "answer") - 1;
  return item;
}

struct LabelledChoices {
  std::vector<std::string> texts, labels;
};

/// {"text": […], "label": […]} as in the hub, or [{"text": …, "label": …}, …] as published.
LabelledChoices labelled_choices(const Json& choices) {
  if (choices.is_object())
    return {texts(field(choices, "text"), "choices.text"),
            texts(field(choices, "label"), "choices.label")};
  if (!choices.is_array()) throw BadField{"field choices: expected an object or a list"};
  LabelledChoices result;
  for (const Json& choice : choices) {
    result.texts.push_back(text_field(choice, "text"));
    result.labels.push_back(text_field(choice, "label"));
  }
  return result;
}

ChoiceItem labelled(const std::string& context, const Json& choices, const Json& line) {
  const LabelledChoices found = labelled_choices(choices);
  const std::string key(strip(text_field(line, "answerKey")));
  const auto gold = std::find(found.labels.begin(), found.labels.end(), key);
  if (gold == found.labels.end())
    throw BadField{concat("field answerKey: \"", key, "\" is no label of a choice")};
  return item_of(context, found.texts, gold - found.labels.begin());
}

ChoiceItem arc(const Json& line) {
  const Json& question = field(line, "question");
  const bool published = question.is_object();
  const std::string text = published ? text_field(question, "stem") : text_field(line, "question");
  return labelled(concat("Question: ", text, "\nAnswer:"),
                  field(published ? question : line, "choices"), line);
}

ChoiceItem openbookqa(const Json& line) {
  if (line.contains("question")) {
    const Json& question = field(line, "question");
    return labelled(text_field(question, "stem"), field(question, "choices"), line);
  }
  return labelled(text_field(line, "question_stem"), field(line, "choices"), line);
}

struct Form {
  const char* name;
  ChoiceItem (*read)(const Json& line);
  bool has_acc_norm;
};

constexpr Form kPlain = {"", plain, true};
constexpr Form kForms[] = {{"boolq", boolq, false},         {"piqa", piqa, true},
                           {"hellaswag", hellaswag, true},  {"winogrande", winogrande, false},
                           {"arc_easy", arc, true},         {"arc_challenge", arc, true},
                           {"openbookqa", openbookqa, true}};

const Form& form_of(const std::string& name) {
  if (name == kPlain.name) return kPlain;
  for (const Form& form : kForms)
    if (name == form.name) return form;
  throw UsageError(
      concat("task form '", name, "' is unknown; choose one of ", join(choice_forms())));
}

ChoiceItem read_item(const Form& form, const std::string& text) {
  const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object()) throw BadField{"expected a JSON object"};
  ChoiceItem item = form.read(line);
  const auto count = static_cast<std::int64_t>(item.choices.size());
  if (count < 2) throw BadField{concat("expected at least 2 choices, found ", count)};
  if (item.gold < 0 || item.gold >= count)
    throw BadField{concat("the right choice is number ", item.gold, " of ", count)};
  return item;
}

}  // namespace

const std::vector<std::string>& choice_forms() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const Form& form : kForms) result.emplace_back(form.name);
    return result;
  }();
  return names;
}

ChoiceTask read_choice_task(const std::string& form, const std::filesystem::path& path) {
  const Form& known = form_of(form);
  errno = 0;
  std::ifstream file(path);
  const int reason = errno ? errno : EIO;
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  if (!file || folder) {
    throw DataError(concat("cannot read ", path.string(), ": ",
                           folder ? "it is a folder" : std::strerror(reason),
                           "; expected a file of JSON lines, or FORM=FILE with one of the forms ",
                           join(choice_forms())));
  }
  ChoiceTask task{form.empty() ? path.stem().string() : form, known.has_acc_norm, {}};
  std::string text;
  for (std::int64_t number = 1; std::getline(file, text); ++number) {
    if (strip(text).empty()) continue;
    try {
      task.items.push_back(read_item(known, text));
    } catch (const BadField& problem) {
      throw DataError(concat(path.string(), ", line ", number, ": ", problem.message));
    } catch (const Json::exception& error) {
      throw DataError(concat(path.string(), ", line ", number, ": ", error.what()));
    }
  }
  if (task.items.empty()) throw DataError(concat(path.string(), " holds no item"));
  return task;
}

ChoiceTask open_choice_task(const std::string& name) {
  const auto equals = name.find('=');
  const bool names_form =
      equals != std::string::npos && std::ranges::count(choice_forms(), name.substr(0, equals)) > 0;
  std::error_code ignored;
  // The path of a file may hold the character, too.
  if (equals == std::string::npos || (!names_form && std::filesystem::exists(name, ignored)))
    return read_choice_task("", name);
  return read_choice_task(name.substr(0, equals), name.substr(equals + 1));
}

}  // namespace fbi::eval
