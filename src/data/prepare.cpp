#include "fbi/data/prepare.h"

#include <simdjson.h>
#include <algorithm>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "data/dataset_file.h"
#include "data/documents.h"
#include "data/shard_set.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/hash.h"
#include "fbi/core/log.h"
#include "fbi/core/temporary.h"
#include "fbi/text/plain_text.h"
#include "fbi/text/text_file.h"

namespace fbi::data {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kMaxVocabSize = std::int64_t{1} << 31;
constexpr std::int64_t kMaxSeqLen = std::int64_t{1} << 24;
// Documents are encoded in parallel in groups of this size, which bounds the memory.
constexpr std::size_t kGroupBytes = 8u << 20;
constexpr std::size_t kGroupDocuments = 4096;

bool any_json_lines(const PrepareOptions& options) {
  return std::any_of(options.inputs.begin(), options.inputs.end(),
                     [&](const fs::path& input) { return is_json_lines(options, input); });
}

/// The key of a JSON object that holds a text, "text" if there is such a one; "" for other lines
/// and for those with token_ids.
std::string text_key_of(std::string_view line) {
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  if (parser.parse(line.data(), line.size()).get(object)) return "";
  std::string found;
  for (const auto& member : object) {
    if (member.key == "token_ids") return "";
    if (member.value.is_string() && (found.empty() || member.key == "text")) found = member.key;
  }
  return found;
}

void check_text(const PrepareOptions& options, std::string_view text, const fs::path& input) {
  constexpr std::string_view kMarker = "<|endoftext|>";
  if (options.format == InputFormat::kByName && text::begins_with_json_object(text))
    throw DataError(
        concat(input.string(),
               " holds JSON, not text: --format jsonl takes its lines, with --field NAME "
               "their texts; --format text takes it as it is"));
  if (options.separator == kBlankLine && text.find(kMarker) != text.npos)
    log::warn(input.string(), " holds ", kMarker,
              ", but documents are cut at blank lines: did you "
              "mean --separator '",
              kMarker, "'?");
}

/// Refuses what is plainly another kind of file than it is taken for, before all of it is read.
void check_beginning(const PrepareOptions& options, const fs::path& input) {
  const std::string beginning = text::beginning_of_text_file(input);
  const std::string_view text = beginning;
  text::check_plain_text(text, input);
  if (!is_json_lines(options, input)) return check_text(options, text, input);
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && text[first] == '[')
    throw DataError(concat(input.string(),
                           " holds a JSON array; expected one object per line: jq -c '.[]' ",
                           input.string(), " > lines.jsonl"));
  const std::string_view line = text.substr(0, text.find('\n'));
  if (!options.field.empty() || line.size() == text::kBeginningBytes) return;
  const std::string key = text_key_of(line);
  if (!key.empty())
    throw UsageError(concat(input.string(),
                            ", line 1: found no token_ids but a text; give --field ", key,
                            ", and its tokenizer"));
}

void check(const PrepareOptions& options) {
  const auto fail = [](const auto&... args) { throw UsageError(concat(args...)); };
  if (options.inputs.empty()) fail("prepare needs at least one input file");
  if (options.output.empty()) fail("prepare needs an output folder");
  if (options.seq_len < 1 || options.seq_len > kMaxSeqLen) {
    fail("seq_len: expected 1 to ", kMaxSeqLen, ", found ", options.seq_len);
  }
  if (options.skip_broken < 0) fail("skip_broken: expected 0 or more, found ", options.skip_broken);
  if (!(options.valid_fraction >= 0 && options.valid_fraction < 1)) {
    fail("valid_fraction: expected at least 0 and below 1, found ", options.valid_fraction);
  }
  if (options.separator.empty()) fail("the separator between documents must not be empty");
  for (const auto& input : options.inputs) check_beginning(options, input);
  if (!options.field.empty() && !any_json_lines(options))
    fail("field ", options.field,
         " is for JSON lines, but the input is read as text: leave it out, or give --format jsonl");
  if (!options.tokenizer.empty()) return;
  if (!options.field.empty() || any_text(options))
    fail("text input needs a tokenizer (tokenizer.model or tokenizer.json)");
  if (options.vocab_size < 1 || options.vocab_size >= kMaxVocabSize) {
    fail("token_ids without a tokenizer need vocab_size: expected 1 to ", kMaxVocabSize - 1,
         ", found ", options.vocab_size);
  }
}

/// Whether document `index` of all inputs belongs to the validation part.
bool is_valid_document(std::int64_t index, const PrepareOptions& options) {
  const std::uint64_t hash = hash64(concat("validation ", options.seed, ' ', index));
  return static_cast<double>(hash >> 11) * 0x1p-53 < options.valid_fraction;
}

/// The work on all inputs, in their order.
class Preparation {
 public:
  Preparation(const PrepareOptions& options, const text::Tokenizer* tokenizer,
              const PrepareResult& facts, const fs::path& folder, ParallelFor& parallel,
              const Progress& progress)
      : options_(options),
        tokenizer_(tokenizer),
        vocab_size_(facts.vocab_size),
        parallel_(parallel),
        progress_(progress),
        train_(folder, "train", shard_info(options, facts), options.max_shard_bytes),
        valid_(folder, "valid", shard_info(options, facts), options.max_shard_bytes) {}

  void run(PrepareResult& result) {
    for (const auto& input : options_.inputs) read_input(input);
    result.train = train_.finish();
    result.valid = valid_.finish();
    result.broken_documents = broken_;
    if (broken_ > 0) log::warn(broken_, " broken documents were left out");
    if (result.train.samples > 0) return;
    if (result.valid.documents > result.train.documents) {
      throw DataError(concat("valid_fraction ", options_.valid_fraction, " put ",
                             result.valid.documents, " of ",
                             result.valid.documents + result.train.documents,
                             " documents into the validation part, and the rest gives no training "
                             "sample of ",
                             options_.seq_len + 1, " ids; lower it, or give more documents"));
    }
    throw DataError(concat("expected at least one training sample of ", options_.seq_len + 1,
                           " ids, found ", result.train.ids, " ids in ", result.train.documents,
                           " documents of ", options_.inputs.front().string(),
                           options_.inputs.size() > 1 ? ", …" : "",
                           "; give more text or a smaller seq_len"));
  }

 private:
  static formats::TokenShardInfo shard_info(const PrepareOptions& options,
                                            const PrepareResult& facts) {
    return {static_cast<std::uint32_t>(facts.vocab_size),
            static_cast<std::uint32_t>(options.seq_len + 1), 0, facts.tokenizer_hash};
  }

  void read_input(const fs::path& input) {
    text::TextFile file(input);
    DocumentCutter cutter(is_json_lines(options_, input), options_.separator);
    std::string content;
    std::vector<RawDocument> group;
    for (bool more = true; more;) {
      more = file.append(content, kGroupBytes);
      cutter.feed(content, !more);
      for (RawDocument document; cutter.next(document);) {
        if (document.bytes.size() > kMaxDocumentBytes)
          throw too_large(input, options_, document.number);
        group.push_back(document);
        if (group.size() == kGroupDocuments) add_group(group, input);
      }
      add_group(group, input);
      content.erase(0, content.size() - cutter.rest().size());
      if (content.size() > kMaxDocumentBytes) throw too_large(input, options_, cutter.number());
      if (progress_) progress_("preparing " + input.string(), file.position(), file.size());
    }
  }

  /// Leaves the group empty.
  void add_group(std::vector<RawDocument>& group, const fs::path& input) {
    std::vector<std::vector<std::int32_t>> ids(group.size());
    std::vector<std::exception_ptr> errors(group.size());
    parallel_.run(0, std::ssize(group), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        try {
          ids[k] = document_ids(group[k], input, options_, tokenizer_, vocab_size_);
        } catch (...) {
          errors[k] = std::current_exception();
        }
      }
    });
    for (const auto& error : errors) {  // in the order of the file, whatever thread met one first
      if (error) skip_or_throw(error);
    }
    for (const auto& document : ids) {
      ShardSet& part = is_valid_document(documents_++, options_) ? valid_ : train_;
      if (!document.empty()) part.add(document);
    }
    group.clear();
  }

  void skip_or_throw(const std::exception_ptr& error) {
    constexpr std::int64_t kNamed = 10;
    try {
      std::rethrow_exception(error);
    } catch (const DataError& broken) {
      if (++broken_ > options_.skip_broken) {
        if (options_.skip_broken == 0) throw;
        throw DataError(concat(broken.what(), " (more than ", options_.skip_broken,
                               " broken documents, which were to be left out)"));
      }
      if (broken_ <= kNamed) log::warn("left out: ", broken.what());
      if (broken_ == kNamed + 1) log::warn("more broken documents are left out and not named");
    }
  }

  const PrepareOptions& options_;
  const text::Tokenizer* tokenizer_;
  std::int64_t vocab_size_;
  ParallelFor& parallel_;
  const Progress& progress_;
  ShardSet train_, valid_;
  std::int64_t documents_ = 0, broken_ = 0;
};

/// A folder beside the output that becomes it; what killed processes left there is deleted.
class PartialFolder {
 public:
  explicit PartialFolder(const fs::path& output) : output_(output) {
    fs::path prefix = output;
    prefix += ".partial";
    remove_dead_temporaries(prefix);
    path_ = own_temporary(prefix);
    std::error_code error;
    fs::remove_all(path_, error);
    if (!error) fs::create_directories(path_, error);
    if (error)
      throw DiskError(concat("cannot make the folder ", path_.string(), ": ", error.message()));
  }
  ~PartialFolder() {
    std::error_code ignored;
    if (!committed_) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

  void commit() {
    sync_directory(path_);
    std::error_code error;
    fs::rename(path_, output_, error);  // replaces an empty folder, never a full one
    if (error == std::errc::directory_not_empty || error == std::errc::file_exists ||
        error == std::errc::not_a_directory) {
      throw UsageError(concat("the output ", output_.string(),
                              " was made by another process meanwhile and is left as it is; choose "
                              "another folder, or prepare again to compare"));
    }
    if (error) {
      throw DiskError(concat("cannot rename ", path_.string(), " to ", output_.string(), ": ",
                             error.message()));
    }
    committed_ = true;
    sync_directory(output_.parent_path());
  }

 private:
  fs::path output_, path_;
  bool committed_ = false;
};

bool holds_something(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) return false;  // if it can't even be asked for, making it tells why
  if (!fs::is_directory(status)) {
    throw UsageError(concat("the output ", folder.string(), " is not a folder"));
  }
  const bool empty = fs::is_empty(folder, error);
  if (error) throw UsageError(concat("the output ", folder.string(), ": ", error.message()));
  return !empty;
}

}  // namespace

PrepareResult prepare(const PrepareOptions& options, ParallelFor& parallel,
                      const Progress& progress) {
  check(options);
  const fs::path output = plain_path(options.output);
  PrepareResult result;
  std::unique_ptr<text::Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) {
    tokenizer = text::load_tokenizer(options.tokenizer);
    result.tokenizer_hash = tokenizer->file_hash();
  }
  result.vocab_size = tokenizer ? tokenizer->vocab_size() : options.vocab_size;
  const nlohmann::json identity = dataset_identity(options, result, tokenizer.get(), progress);
  if (holds_something(output)) return read_prepared(output, identity);
  require_renamable(output);

  PartialFolder folder(output);
  Preparation(options, tokenizer.get(), result, folder.path(), parallel, progress).run(result);
  if (tokenizer) text::save_tokenizer(*tokenizer, folder.path());
  write_file(folder.path() / kDatasetFile, dataset_to_json(identity, result));
  folder.commit();
  return result;
}

std::string unescape_separator(std::string_view text) {
  std::string out;
  for (std::size_t k = 0; k < text.size(); ++k) {
    if (text[k] != '\\') {
      out += text[k];
      continue;
    }
    const char code = ++k < text.size() ? text[k] : '\0';
    switch (code) {
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case 'r':
        out += '\r';
        break;
      case '\\':
        out += '\\';
        break;
      default:
        throw UsageError(
            concat("separator \"", text, "\": expected \\n, \\t, \\r or \\\\ after a backslash"));
    }
  }
  return out;
}

}  // namespace fbi::data
