#include "config/architecture.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "config/fields.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"

namespace fbi::config {
namespace {

// Keys of LlamaConfig that leave the maths alone.
constexpr std::array<std::string_view, 9> kHarmless = {
    "_name_or_path", "architectures",        "dtype",     "max_sequence_length", "pretraining_tp",
    "torch_dtype",   "transformers_version", "use_cache", "tokenizer_class"};

constexpr double kTransformersEps = 1e-6;  // LlamaConfig's rms_norm_eps where a file has none

struct Refused {
  std::string_view key;
  // Values with which the key changes nothing; null never gets here.
  bool (*allowed)(const Json& value);
  std::string_view message;
};

bool is_false(const Json& value) {
  return value == false;
}
bool is_zero(const Json& value) {
  return value.is_number() && value == 0;
}
bool is_one(const Json& value) {
  return value.is_number() && value == 1;
}
bool is_never(const Json&) {
  return false;
}
bool is_silu(const Json& value) {
  return value == "silu" || value == "swish";
}
bool is_llama(const Json& value) {
  return value == "llama" || value == kPackedModelType;
}
bool is_full_attention(const Json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(),
                                         [](const Json& type) { return type == "full_attention"; });
}

constexpr std::array<Refused, 12> kRefused = {{
    {"attention_bias", is_false, "not implemented: biases of attention layers; only false is"},
    {"mlp_bias", is_false, "not implemented: biases of feed-forward layers; only false is"},
    {"attention_dropout", is_zero, "not implemented: dropout; only 0 is"},
    {"hidden_act", is_silu, "not implemented: this activation; only \"silu\" is"},
    {"model_type", is_llama, "not implemented: this architecture; only \"llama\" is"},
    {"sliding_window", is_never, "not implemented: attention in a sliding window; only null is"},
    {"use_sliding_window", is_false,
     "not implemented: attention in a sliding window; only false is"},
    {"layer_types", is_full_attention,
     "not implemented: layers of this type; only \"full_attention\" is"},
    {"partial_rotary_factor", is_one,
     "not implemented: rotation of a part of each head; only 1 is"},
    {"quantization_config", is_never, "not implemented: quantized weights; convert them first"},
    {"compression_config", is_never, "not implemented: compressed weights; convert them first"},
    {"is_causal", [](const Json& value) { return value == true; },
     "not implemented: attention to later tokens; only true is"},
}};

bool contains(const std::vector<Field>& fields, const std::string& key) {
  return std::any_of(fields.begin(), fields.end(), [&](const Field& field) {
    return field.key == key && !std::holds_alternative<std::monostate>(field.member);
  });
}

bool present(const Json& object, const char* key) {
  return object.contains(key) && !object[key].is_null();
}

/// One pass over a LlamaConfig object; see plain_architecture.
class Rewriter {
 public:
  Rewriter(const std::string& prefix, UnknownKeys unknown, Problems& problems)
      : prefix_(prefix), unknown_(unknown), problems_(problems), known_(fields_of(model_, "")) {}

  Json run(const Json& source) {
    read_ropes(source);
    for (const auto& [key, value] : source.items()) {
      if (key == "rope_theta" || key == "rope_scaling" || key == "rope_parameters") continue;
      if (const Refused* rule = refusal(key)) {
        if (!value.is_null() && !rule->allowed(value)) {
          problems_.add(prefix_ + key, show(value), std::string(rule->message));
        }
      } else if (contains(known_, key)) {
        put_known(key, value);
      } else if (std::find(kHarmless.begin(), kHarmless.end(), key) == kHarmless.end()) {
        put_unknown(plain_, key, prefix_ + key, value);
      }
    }
    if (unknown_ == UnknownKeys::kLog) complete_file();
    return std::move(plain_);
  }

 private:
  static const Refused* refusal(const std::string& key) {
    const auto rule = std::find_if(kRefused.begin(), kRefused.end(),
                                   [&](const Refused& candidate) { return candidate.key == key; });
    return rule == kRefused.end() ? nullptr : rule;
  }

  void put_known(const std::string& key, const Json& value) {
    const bool file = unknown_ == UnknownKeys::kLog;
    if (key == "eos_token_id" && value.is_null()) {
      plain_[key] = Json::array();
    } else if (file && key == "pad_token_id" && value.is_number() && value == -1) {
      return;  // the first LLaMA configurations mark "no padding" with -1
    } else if (!value.is_null()) {
      plain_[key] = value;
    }
  }

  // A file stands for itself: our defaults are not those of its author.
  void complete_file() {
    for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                            "num_attention_heads"}) {
      if (!plain_.contains(key)) problems_.add(prefix_ + key, "", "missing");
    }
    if (!plain_.contains("rms_norm_eps")) plain_["rms_norm_eps"] = kTransformersEps;
  }

  // An unknown key that is kept is reported when fields are read.
  void put_unknown(Json& target, const std::string& key, const std::string& path,
                   const Json& value) {
    if (unknown_ == UnknownKeys::kKeep) {
      target[key] = value;
    } else {
      log::debug("ignored key ", path, " = ", show(value));
    }
  }

  void read_ropes(const Json& source) {
    if (present(source, "rope_theta")) plain_["rope_theta"] = source["rope_theta"];
    if (present(source, "rope_scaling") && present(source, "rope_parameters")) {
      problems_.add(prefix_ + "rope_parameters", "",
                    "means the same as rope_scaling; expected only one of the two");
      return;
    }
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      if (present(source, key)) read_rope(source[key], prefix_ + key);
    }
  }

  void read_rope(const Json& rope, const std::string& path) {
    if (!rope.is_object()) {
      problems_.add(path, show(rope), "expected an object {...} or null");
      return;
    }
    Json& scaling = plain_["rope_scaling"] = Json::object();
    for (const auto& [key, value] : rope.items()) {
      if (value.is_null()) continue;
      if (key == "rope_theta") {
        if (plain_.contains(key) && plain_[key] != value)
          problems_.add(path + "." + key, show(value),
                        concat("means the same as ", prefix_, key, ", which is ", show(plain_[key]),
                               "; expected only one of the two"));
        plain_[key] = value;
      } else if (key == "type") {
        if (!present(rope, "rope_type")) scaling["rope_type"] = value;
      } else if (key == "partial_rotary_factor") {
        if (!is_one(value)) {
          problems_.add(path + "." + key, show(value), std::string(refusal(key)->message));
        }
      } else if (contains(known_, "rope_scaling." + key)) {
        scaling[key] = value;
      } else {
        put_unknown(scaling, key, path + "." + key, value);
      }
    }
    if (unknown_ == UnknownKeys::kLog) check_complete(scaling, path);
  }

  // As complete_file, for the rotary embedding.
  void check_complete(const Json& scaling, const std::string& path) {
    std::vector<const char*> needed;
    const Json type = scaling.value("rope_type", Json("default"));
    if (type == "linear" || type == "llama3") needed = {"factor"};
    if (type == "llama3") {
      needed.insert(needed.end(),
                    {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
    }
    for (const char* key : needed) {
      if (!scaling.contains(key)) {
        problems_.add(path + "." + key, "",
                      concat("missing; rope type ", type.get<std::string>(), " needs it"));
      }
    }
  }

  const std::string& prefix_;
  UnknownKeys unknown_;
  Problems& problems_;
  ModelConfig model_;
  std::vector<Field> known_;
  Json plain_ = Json::object();
};

}  // namespace

Json plain_architecture(const Json& source, const std::string& prefix, UnknownKeys unknown,
                        Problems& problems) {
  return Rewriter(prefix, unknown, problems).run(source);
}

void check_model(const ModelConfig& model, const std::string& prefix, Problems& problems) {
  const auto sound = [&](std::initializer_list<const char*> keys) {
    return std::none_of(keys.begin(), keys.end(),
                        [&](const char* key) { return problems.touches(prefix + key); });
  };
  const std::int64_t heads = model.num_attention_heads;
  const std::int64_t kv_heads = model.num_key_value_heads;
  if (sound({"hidden_size", "num_attention_heads", "head_dim"})) {
    if (model.head_dim == 0 && model.hidden_size % heads != 0) {
      problems.add(prefix + "hidden_size", std::to_string(model.hidden_size),
                   concat("expected a multiple of num_attention_heads (", heads,
                          "), or head_dim to be set"));
    } else if (const auto size = model.head_dim ? model.head_dim : model.hidden_size / heads;
               size % 2 != 0) {
      problems.add(prefix + "head_dim", std::to_string(size),
                   "expected an even number: the rotary embedding turns pairs");
    }
  }
  if (sound({"num_attention_heads", "num_key_value_heads"}) && kv_heads != 0 &&
      heads % kv_heads != 0) {
    problems.add(prefix + "num_key_value_heads", std::to_string(kv_heads),
                 concat("expected a divisor of num_attention_heads (", heads, ")"));
  }
  const auto check_token = [&](const char* key, std::int64_t id, const char* otherwise) {
    if (sound({"vocab_size", key}) && id >= model.vocab_size)
      problems.add(prefix + key, std::to_string(id),
                   concat("expected less than vocab_size (", model.vocab_size, ")", otherwise));
  };
  if (model.pad_token_id) check_token("pad_token_id", *model.pad_token_id, ", or null");
  check_token("bos_token_id", model.bos_token_id, "");
  for (const std::int64_t id : model.eos_token_id) check_token("eos_token_id", id, "");
  if (sound({"binarize"}) && model.binarize != Binarize::kColumn) {
    const std::string reason = concat(", because binarize is ", to_string(model.binarize),
                                      "; the option is for column only");
    if (model.tie_scales) problems.add(prefix + "tie_scales", "true", "expected false" + reason);
    if (!model.shift) problems.add(prefix + "shift", "false", "expected true" + reason);
  }
  const RopeScaling& rope = model.rope_scaling;
  if (rope.type == "llama3" && sound({"rope_scaling"})) {
    if (rope.original_max_position_embeddings == 0) {
      problems.add(prefix + "rope_scaling.original_max_position_embeddings", "0",
                   "expected the context length before scaling: rope type llama3 needs it");
    }
    if (!(rope.low_freq_factor < rope.high_freq_factor)) {
      problems.add(prefix + "rope_scaling.low_freq_factor", concat(rope.low_freq_factor),
                   concat("expected less than high_freq_factor (", rope.high_freq_factor, ")"));
    }
  }
}

}  // namespace fbi::config
