#include "formats/state_dict_pickle.h"

#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "fbi/core/error.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

// A model of a thousand layers has some hundred thousand values; a file cannot make us hold many
// more.
constexpr std::size_t kMaxValues = 1'000'000;
constexpr std::size_t kMaxDimensions = 8;
constexpr std::size_t kMaxKeyBytes = 255;  // it is a number
constexpr std::size_t kMaxArguments = 7;

enum class Kind {
  kNone,
  kBool,
  kInt,
  kFloat,
  kText,
  kTuple,
  kList,
  kDict,
  kCallable,
  kStorage,
  kTensor
};

enum class Callable {
  kOrderedDict,
  kRebuildTensor,
  kRebuildParameter,
  kRebuildFromType,
  kTensorType,
  kStorageType
};

struct KnownGlobal {
  std::string_view module, name;
  Callable callable;
  DType dtype = DType::kF32;  // of a storage type
};

constexpr KnownGlobal kGlobals[] = {
    {"collections", "OrderedDict", Callable::kOrderedDict},
    {"torch._utils", "_rebuild_tensor_v2", Callable::kRebuildTensor},
    {"torch._utils", "_rebuild_parameter", Callable::kRebuildParameter},
    {"torch._utils", "_rebuild_parameter_with_state", Callable::kRebuildParameter},
    {"torch._tensor", "_rebuild_from_type_v2", Callable::kRebuildFromType},
    {"torch", "Tensor", Callable::kTensorType},
    {"torch.nn.parameter", "Parameter", Callable::kTensorType},
    {"torch", "DoubleStorage", Callable::kStorageType, DType::kF64},
    {"torch", "FloatStorage", Callable::kStorageType, DType::kF32},
    {"torch", "HalfStorage", Callable::kStorageType, DType::kF16},
    {"torch", "BFloat16Storage", Callable::kStorageType, DType::kBF16},
    {"torch", "LongStorage", Callable::kStorageType, DType::kI64},
    {"torch", "IntStorage", Callable::kStorageType, DType::kI32},
    {"torch", "ShortStorage", Callable::kStorageType, DType::kI16},
    {"torch", "CharStorage", Callable::kStorageType, DType::kI8},
    {"torch", "ByteStorage", Callable::kStorageType, DType::kU8},
    {"torch", "BoolStorage", Callable::kStorageType, DType::kBool},
};

/// Refers to other values by position, so that neither deep nesting nor a cycle can harm.
struct Value {
  Kind kind = Kind::kNone;
  std::int64_t number = 0;  // integer, or position in kGlobals, storages or tensors
  std::string_view text;
  std::vector<std::uint32_t> items;  // of a tuple or list; of a dict key, value, key, value
};

struct Storage {
  std::string_view key;
  DType dtype = DType::kF32;
};

/// Names its parts by their places, so that a few bytes of pickle take a few bytes here.
struct View {
  std::int64_t storage = 0, offset = 0;
  std::uint32_t shape = 0, strides = 0;  // tuples
};

class Unpickler {
 public:
  Unpickler(std::span<const std::byte> pickle, const std::string& place)
      : bytes_(reinterpret_cast<const char*>(pickle.data()), pickle.size()), place_(place) {}

  std::vector<PickledTensor> run() {
    while (step(static_cast<unsigned char>(take(1)[0]))) {
    }
    if (position_ != bytes_.size()) fail("there is something after its end");
    if (stack_.size() != 1) fail("it leaves ", stack_.size(), " values, expected 1");
    return named_tensors(values_[stack_[0]]);
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw DataError(concat(place_, ": byte ", position_, " of its pickle: ", args...));
  }

  std::string_view take(std::uint64_t bytes) {
    if (bytes > bytes_.size() - position_) fail("it is cut short");
    const auto part = bytes_.substr(position_, bytes);
    position_ += bytes;
    return part;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view line() {
    const auto end = bytes_.find('\n', position_);
    if (end == std::string_view::npos) fail("it is cut short");
    const auto text = take(end - position_);
    take(1);
    return text;
  }

  std::uint32_t make(Value value) {
    if (values_.size() >= kMaxValues) fail("it holds more than ", kMaxValues, " values");
    values_.push_back(std::move(value));
    return static_cast<std::uint32_t>(values_.size() - 1);
  }
  void push(Value value) { stack_.push_back(make(std::move(value))); }
  void push(Kind kind, std::int64_t number = 0) { push(Value{kind, number, {}, {}}); }
  void push_text(std::uint64_t bytes) { push(Value{Kind::kText, 0, take(bytes), {}}); }

  std::size_t bottom() const { return marks_.empty() ? 0 : marks_.back(); }
  std::uint32_t pop() {
    if (stack_.size() <= bottom()) fail("it takes a value that it did not give");
    const std::uint32_t value = stack_.back();
    stack_.pop_back();
    return value;
  }
  std::vector<std::uint32_t> pop(std::size_t count) {
    if (stack_.size() - bottom() < count) fail("it takes a value that it did not give");
    std::vector<std::uint32_t> items(stack_.end() - static_cast<std::ptrdiff_t>(count),
                                     stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }
  std::vector<std::uint32_t> pop_to_mark() {
    if (marks_.empty()) fail("it returns to a mark that it did not set");
    auto items = pop(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }
  Value& top(Kind kind, const char* what) {
    if (stack_.size() <= bottom() || values_[stack_.back()].kind != kind) fail("expected ", what);
    return values_[stack_.back()];
  }

  /// False at the end of the program.
  // clang-format off
  bool step(unsigned char code) {
    switch (code) {
      case '.':  return false;                                            // STOP
      case 0x80: check_protocol(); break;                                 // PROTO
      case 0x95: take(8); break;                                          // FRAME
      case '(':  marks_.push_back(stack_.size()); break;                  // MARK
      case 'N':  push(Kind::kNone); break;                                // NONE
      case 0x88: push(Kind::kBool, 1); break;                             // NEWTRUE
      case 0x89: push(Kind::kBool, 0); break;                             // NEWFALSE
      case 'J':  push(Kind::kInt, number<std::int32_t>()); break;         // BININT
      case 'K':  push(Kind::kInt, number<std::uint8_t>()); break;         // BININT1
      case 'M':  push(Kind::kInt, number<std::uint16_t>()); break;        // BININT2
      case 0x8a: push(Kind::kInt, long_number()); break;                  // LONG1
      case 'G':  take(8); push(Kind::kFloat); break;                      // BINFLOAT
      case 'X':  push_text(number<std::uint32_t>()); break;               // BINUNICODE
      case 0x8c: push_text(number<std::uint8_t>()); break;                // SHORT_BINUNICODE
      case 0x8d: push_text(number<std::uint64_t>()); break;               // BINUNICODE8
      case ')':  push(Kind::kTuple); break;                               // EMPTY_TUPLE
      case ']':  push(Kind::kList); break;                                // EMPTY_LIST
      case '}':  push(Kind::kDict); break;                                // EMPTY_DICT
      case 't':  push(Value{Kind::kTuple, 0, {}, pop_to_mark()}); break;  // TUPLE
      case 0x85: push(Value{Kind::kTuple, 0, {}, pop(1)}); break;         // TUPLE1
      case 0x86: push(Value{Kind::kTuple, 0, {}, pop(2)}); break;         // TUPLE2
      case 0x87: push(Value{Kind::kTuple, 0, {}, pop(3)}); break;         // TUPLE3
      case 'a':  extend(Kind::kList, "a list", pop(1)); break;            // APPEND
      case 'e':  extend(Kind::kList, "a list", pop_to_mark()); break;     // APPENDS
      case 's':  extend(Kind::kDict, "a dict", pop(2)); break;            // SETITEM
      case 'u':  extend(Kind::kDict, "a dict", pop_to_mark()); break;     // SETITEMS
      case 'q':  remember(number<std::uint8_t>()); break;                 // BINPUT
      case 'r':  remember(number<std::uint32_t>()); break;                // LONG_BINPUT
      case 0x94: remember(memo_.size()); break;                           // MEMOIZE
      case 'h':  recall(number<std::uint8_t>()); break;                   // BINGET
      case 'j':  recall(number<std::uint32_t>()); break;                  // LONG_BINGET
      case 'c':  push_global(); break;                                    // GLOBAL
      case 0x93: push_stack_global(); break;                              // STACK_GLOBAL
      case 'R':  reduce(); break;                                         // REDUCE
      case 'b':  build(); break;                                          // BUILD
      case 'Q':  push_storage(); break;                                   // BINPERSID
      default:
        fail("operation ", static_cast<int>(code),
             " is not needed to hold tensors and is not carried out");
    }
    return true;
  }
  // clang-format on

  void check_protocol() {
    const auto protocol = number<std::uint8_t>();
    if (protocol < 2 || protocol > 5) fail("expected protocol 2 to 5, found ", int{protocol});
  }

  std::int64_t long_number() {
    const std::string_view digits = take(number<std::uint8_t>());
    if (digits.size() > 8) fail("an integer of ", digits.size(), " bytes");
    std::int64_t value = !digits.empty() && static_cast<signed char>(digits.back()) < 0 ? -1 : 0;
    std::memcpy(&value, digits.data(), digits.size());
    return value;
  }

  void extend(Kind kind, const char* what, const std::vector<std::uint32_t>& items) {
    Value& target = top(kind, what);
    if (kind == Kind::kDict && items.size() % 2 != 0) fail("a key of a dict has no value");
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  void remember(std::uint64_t place) {
    if (stack_.size() <= bottom()) fail("it takes a value that it did not give");
    memo_[place] = stack_.back();
    if (memo_.size() > kMaxValues) fail("it remembers more than ", kMaxValues, " values");
  }
  void recall(std::uint64_t place) {
    const auto found = memo_.find(place);
    if (found == memo_.end()) fail("it recalls a value that it did not remember");
    stack_.push_back(found->second);
  }

  void push_global() {
    const std::string_view module = line(), name = line();
    push_known(module, name);
  }
  void push_stack_global() {
    const auto names = pop(2);
    const Value &module = values_[names[0]], &name = values_[names[1]];
    if (module.kind != Kind::kText || name.kind != Kind::kText) fail("expected two names");
    push_known(module.text, name.text);
  }
  void push_known(std::string_view module, std::string_view name) {
    for (std::size_t i = 0; i < std::size(kGlobals); ++i) {
      if (kGlobals[i].module != module || kGlobals[i].name != name) continue;
      push(Kind::kCallable, static_cast<std::int64_t>(i));
      return;
    }
    fail("it asks for ", printable(concat(module, ".", name)),
         ", which is not needed to hold tensors; nothing of it was executed. Expected the state "
         "dict of a model as torch.save(model.state_dict(), file) writes it");
  }

  const KnownGlobal* callable(std::uint32_t index) const {
    const Value& value = values_[index];
    return value.kind == Kind::kCallable ? &kGlobals[value.number] : nullptr;
  }

  void reduce() {
    const std::vector<std::uint32_t> call = pop(2);
    const KnownGlobal* known = callable(call[0]);
    if (!known || values_[call[1]].kind != Kind::kTuple)
      fail("it calls something that is no function");
    if (values_[call[1]].items.size() > kMaxArguments) {
      fail("a call with ", values_[call[1]].items.size(), " arguments");
    }
    const std::vector<std::uint32_t> arguments = values_[call[1]].items;
    if (known->callable != Callable::kRebuildFromType) return apply(*known, arguments);
    // (function, type, arguments, attributes): a tensor with attributes, which mean nothing to us
    const KnownGlobal* function = arguments.size() == 4 ? callable(arguments[0]) : nullptr;
    const bool makes_a_tensor = function && (function->callable == Callable::kRebuildTensor ||
                                             function->callable == Callable::kRebuildParameter);
    const KnownGlobal* type = makes_a_tensor ? callable(arguments[1]) : nullptr;
    if (!type || type->callable != Callable::kTensorType ||
        values_[arguments[2]].kind != Kind::kTuple ||
        values_[arguments[2]].items.size() > kMaxArguments) {
      fail("a tensor of a type of its own");
    }
    apply(*function, std::vector<std::uint32_t>(values_[arguments[2]].items));
  }

  void apply(const KnownGlobal& known, const std::vector<std::uint32_t>& arguments) {
    switch (known.callable) {
      case Callable::kOrderedDict:
        if (!arguments.empty()) fail("an OrderedDict that is not made empty");
        return push(Kind::kDict);
      case Callable::kRebuildTensor:
        return push_tensor(arguments);
      case Callable::kRebuildParameter:
        if (arguments.empty() || values_[arguments[0]].kind != Kind::kTensor) {
          fail("a parameter that is not made of a tensor");
        }
        stack_.push_back(arguments[0]);
        return;
      case Callable::kRebuildFromType:
      case Callable::kTensorType:
      case Callable::kStorageType:
        break;
    }
    fail("it calls ", known.name, ", which is only a type here");
  }

  /// Attributes of the dict itself: versions of modules, which mean nothing to us.
  void build() {
    pop(1);
    top(Kind::kDict, "a dict whose attributes are set");
  }

  /// ("storage", type, key, device, elements)
  void push_storage() {
    const Value& id = values_[pop()];
    constexpr std::size_t kParts = 5;
    const bool sound = id.kind == Kind::kTuple && id.items.size() == kParts &&
                       is_text(id.items[0], "storage") && callable(id.items[1]) &&
                       callable(id.items[1])->callable == Callable::kStorageType &&
                       values_[id.items[2]].kind == Kind::kText;
    if (!sound) fail("a persistent object that is not the storage of a tensor");
    const std::string_view key = values_[id.items[2]].text;
    if (key.size() > kMaxKeyBytes) fail("a storage whose key has ", key.size(), " bytes");
    storages_.push_back({key, callable(id.items[1])->dtype});
    push(Kind::kStorage, static_cast<std::int64_t>(storages_.size() - 1));
  }
  bool is_text(std::uint32_t index, std::string_view text) const {
    return values_[index].kind == Kind::kText && values_[index].text == text;
  }

  /// (storage, offset, size, stride, requires_grad, hooks[, metadata])
  void push_tensor(const std::vector<std::uint32_t>& arguments) {
    if (arguments.size() < kMaxArguments - 1) {
      fail("a tensor with ", arguments.size(), " arguments, expected 6 or 7");
    }
    const Value &storage = values_[arguments[0]], &offset = values_[arguments[1]];
    if (storage.kind != Kind::kStorage || offset.kind != Kind::kInt || offset.number < 0) {
      fail("a tensor that is not a view of a storage");
    }
    const auto dimensions = [&](std::uint32_t tuple) {
      check_extents(tuple);
      return values_[tuple].items.size();
    };
    if (dimensions(arguments[2]) != dimensions(arguments[3])) {
      fail("a tensor whose size and stride disagree");
    }
    tensors_.push_back({storage.number, offset.number, arguments[2], arguments[3]});
    push(Kind::kTensor, static_cast<std::int64_t>(tensors_.size() - 1));
  }
  void check_extents(std::uint32_t index) const {
    const Value& tuple = values_[index];
    if (tuple.kind != Kind::kTuple) fail("a tensor whose size is no tuple");
    if (tuple.items.size() > kMaxDimensions) {
      fail("a tensor of ", tuple.items.size(), " dimensions, at most ", kMaxDimensions,
           " are read");
    }
    for (const std::uint32_t item : tuple.items) {
      if (values_[item].kind != Kind::kInt || values_[item].number < 0) {
        fail("a tensor whose size is not of whole numbers");
      }
    }
  }
  std::vector<std::int64_t> extents(std::uint32_t tuple) const {
    std::vector<std::int64_t> result;
    for (const std::uint32_t item : values_[tuple].items) result.push_back(values_[item].number);
    return result;
  }

  std::vector<PickledTensor> named_tensors(const Value& dict) const {
    if (dict.kind != Kind::kDict) fail("expected a dict from name to tensor");
    std::vector<PickledTensor> result;
    std::set<std::string_view> names;
    for (std::size_t i = 0; i < dict.items.size(); i += 2) {
      const Value &key = values_[dict.items[i]], &value = values_[dict.items[i + 1]];
      if (key.kind != Kind::kText) fail("a key of the dict is no text");
      if (value.kind != Kind::kTensor) {
        fail("expected a tensor for ", printable(key.text), "; only plain state dicts are read");
      }
      if (!names.insert(key.text).second) fail("key ", printable(key.text), " occurs twice");
      const View& view = tensors_[static_cast<std::size_t>(value.number)];
      const Storage& storage = storages_[static_cast<std::size_t>(view.storage)];
      result.push_back({key.text, storage.dtype, storage.key, view.offset, extents(view.shape),
                        extents(view.strides)});
    }
    return result;
  }

  std::string_view bytes_;
  const std::string& place_;
  std::size_t position_ = 0;
  std::vector<Value> values_;
  std::vector<std::uint32_t> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, std::uint32_t> memo_;
  std::vector<Storage> storages_;
  std::vector<View> tensors_;
};

}  // namespace

std::vector<PickledTensor> read_state_dict_pickle(std::span<const std::byte> pickle,
                                                  const std::string& place) {
  return Unpickler(pickle, place).run();
}

}  // namespace fbi::formats
