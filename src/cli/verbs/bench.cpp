#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>

#include "cli/packed_arguments.h"
#include "cli/verbs.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/random.h"
#include "fbi/eval/compare.h"
#include "fbi/kernels/dispatch.h"

namespace fbi::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

/// One way to run a model, and what was measured.
struct Measurement {
  std::string name;
  infer::PackedOptions options;
  std::optional<kernels::Level> level;  ///< of the kernels, else the one that all verbs take
  std::string dtype, kernels;
  std::uint64_t bytes_per_token = 0;  ///< weights and, half way through, the cache
  double prompt_tokens_per_second = 0;
  double tokens_per_second = 0;       ///< of the median step
  double best_tokens_per_second = 0;  ///< of the fastest one
  double read_bandwidth = 0;          ///< bytes per second at this footprint
  double mean_kl = 0;                 ///< from the first measurement's model

  double share() const {
    return tokens_per_second * static_cast<double>(bytes_per_token) / read_bandwidth;
  }
};

config::ModelConfig read_architecture(const std::string& file) {
  auto model = config::load_model_config(file);
  if (model.binarize == config::Binarize::kNone) model.binarize = config::Binarize::kColumn;
  return model;
}

std::unique_ptr<infer::PackedModel> open(const Arguments& arguments,
                                         const infer::PackedOptions& options) {
  if (arguments.has("model") == arguments.has("config"))
    throw UsageError("give the model with either --model DIR or --config FILE (random weights)");
  if (arguments.has("config"))
    return std::make_unique<infer::PackedModel>(read_architecture(arguments.text("config")),
                                                options);
  return std::make_unique<infer::PackedModel>(arguments.text("model"), options);
}

std::vector<std::int32_t> random_ids(std::int64_t count, std::int64_t vocab) {
  RandomStream random(/*seed=*/2024, /*stream=*/11);
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < count; ++t)
    ids.push_back(static_cast<std::int32_t>(random.next_below(static_cast<std::uint64_t>(vocab))));
  return ids;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string place_of(const infer::PackedModel& model) {
  if (model.on_gpu()) return model.dtype_description();
  return concat(model.threads(), " threads, kernels ",
                kernels::level_name(kernels::chosen_level()));
}

/// What is asked for: texts that are decoded together, each behind a prompt.
struct Load {
  std::int64_t texts = 1, prompt_tokens = 1, new_tokens = 1;
};

/// Greedy decoding behind a prompt; rates are of all texts together.
void measure_speed(infer::PackedModel& model, const Load& load, Measurement& out) {
  const auto vocab = static_cast<std::size_t>(model.vocab_size());
  const auto texts = static_cast<double>(load.texts);
  std::vector<float> logits(static_cast<std::size_t>(load.texts) * vocab);
  const std::span<float> all(logits);
  const auto prompt = random_ids(load.prompt_tokens, model.vocab_size());
  // A GPU loads its kernels in the first step of a kind and captures its graph in the second.
  for (int k = 0; k < (model.on_gpu() ? 2 : 0); ++k)
    model.start_decoding()->feed(prompt, all.first(vocab));
  std::vector<std::unique_ptr<eval::DecodingSession>> sessions;
  out.prompt_tokens_per_second = texts * static_cast<double>(load.prompt_tokens) / seconds_of([&] {
                                   for (std::size_t n = 0; n < logits.size(); n += vocab) {
                                     sessions.push_back(model.start_decoding());
                                     sessions.back()->feed(prompt, all.subspan(n, vocab));
                                   }
                                 });
  std::vector<std::int32_t> ids(sessions.size());
  std::vector<double> steps;
  for (std::int64_t k = 0; k < load.new_tokens; ++k) {
    for (std::size_t n = 0; n < ids.size(); ++n) {
      const auto own = all.subspan(n * vocab, vocab);
      ids[n] = static_cast<std::int32_t>(std::ranges::max_element(own) - own.begin());
    }
    steps.push_back(
        seconds_of([&] { model.feed_each(sessions, ids, {.ids = model.vocab_size()}, all); }));
  }
  std::ranges::sort(steps);
  out.tokens_per_second = texts / steps[steps.size() / 2];
  out.best_tokens_per_second = texts / steps.front();
}

eval::WindowSource comparison_windows(const infer::PackedModel& model) {
  const std::int64_t length = std::min<std::int64_t>(32, model.max_position());
  return eval::stream_windows(random_ids(4 * length, model.vocab_size()), length);
}

/// A model that runs with the kernels with which it was opened, whatever others do between.
class AtLevel final : public eval::LanguageModel {
 public:
  AtLevel(infer::PackedModel& model, std::optional<kernels::Level> level)
      : model_(model), level_(level) {}
  std::int64_t vocab_size() const override { return model_.vocab_size(); }
  std::int64_t max_position() const override { return model_.max_position(); }
  std::string dtype_description() const override { return model_.dtype_description(); }
  void logits(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
              std::span<float> out) override {
    kernels::force_level(level_);
    model_.logits(tokens, batch, seq, out);
  }
  void token_nll(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
                 std::span<float> out) override {
    kernels::force_level(level_);
    model_.token_nll(tokens, batch, seq, out);
  }
  std::unique_ptr<eval::DecodingSession> start_decoding() override {
    kernels::force_level(level_);
    return model_.start_decoding();
  }

 private:
  infer::PackedModel& model_;
  std::optional<kernels::Level> level_;
};

/// What --compare measures.
std::vector<Measurement> faster_settings(const infer::PackedOptions& base) {
  std::vector<Measurement> all;
  for (const bool int8_activations : {false, true}) {
    for (const bool int8_head : {false, true}) {
      for (const bool fp16_cache : {false, true}) {
        infer::PackedOptions options = base;
        options.activations =
            int8_activations ? kernels::Activations::kInt8 : kernels::Activations::kExact;
        if (int8_head) options.head = kernels::Storage::kInt8;
        options.cache = fp16_cache ? kernels::CacheType::kFp16 : kernels::CacheType::kFp32;
        all.push_back({concat(int8_activations ? "int8" : "exact", int8_head ? ", int8 head" : "",
                              fp16_cache ? ", fp16 cache" : ""),
                       options,
                       {},
                       {},
                       {}});
      }
    }
  }
  return all;
}

/// What --kernels measures: the plain loops of the reference are no one's choice.
std::vector<Measurement> instruction_sets(infer::PackedOptions options) {
  options.device = infer::Device::kCpu;
  std::vector<Measurement> all;
  for (const kernels::DispatchRow& row : kernels::dispatch_rows()) {
    if (!row.available() || row.level == kernels::Level::kRef) continue;
    all.push_back({std::string(kernels::level_name(row.level)), options, row.level, {}, {}});
  }
  return all;
}

/// The first is what the others are compared with.
std::vector<Measurement> variants(const Arguments& arguments) {
  const infer::PackedOptions base = packed_options_of(arguments);
  std::vector<Measurement> all;
  if (arguments.has("compare")) all = faster_settings(base);
  if (arguments.has("kernels")) std::ranges::move(instruction_sets(base), std::back_inserter(all));
  if (all.empty()) all.push_back({"as given", base, {}, {}, {}});
  return all;
}

OrderedJson to_json(const Measurement& m) {
  return {{"name", m.name},
          {"dtype", m.dtype},
          {"kernels", m.kernels},
          {"bytes_per_token", m.bytes_per_token},
          {"prompt_tokens_per_second", m.prompt_tokens_per_second},
          {"tokens_per_second", m.tokens_per_second},
          {"best_tokens_per_second", m.best_tokens_per_second},
          {"read_bandwidth", m.read_bandwidth},
          {"bandwidth_share", m.share()},
          {"mean_kl", m.mean_kl}};
}

void print(const Measurement& m) {
  std::printf(
      "%-27s %10.1f tokens/s prompt %9.1f tokens/s decode (best step %.1f)  %8s per token  %3.0f "
      "%% of %.1f GB/s  KL %.2g\n",
      m.name.c_str(), m.prompt_tokens_per_second, m.tokens_per_second, m.best_tokens_per_second,
      format_bytes(m.bytes_per_token).c_str(), 100 * m.share(), m.read_bandwidth / 1e9, m.mean_kl);
}

/// Opens the model so and measures how fast it is.
std::unique_ptr<infer::PackedModel> measure(const Arguments& arguments, Measurement& m) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  const Load load = {arguments.integer("texts", 1, 64),
                     arguments.integer("prompt-tokens", 1, kMost),
                     arguments.integer("new-tokens", 1, kMost)};
  kernels::force_level(m.level);
  auto model = open(arguments, m.options);
  const std::int64_t context = model->max_position();
  if (load.prompt_tokens > context || load.new_tokens > context - load.prompt_tokens)
    throw UsageError(concat("--prompt-tokens ", load.prompt_tokens, " and --new-tokens ",
                            load.new_tokens, ": expected at most ", context,
                            " together, the model's context; ask for less"));
  m.dtype = model->dtype_description();
  m.kernels = kernels::level_name(kernels::chosen_level());
  measure_speed(*model, load, m);
  m.bytes_per_token = model->bytes_per_token() / static_cast<std::uint64_t>(load.texts) +
                      model->cache_bytes_per_position() *
                          static_cast<std::uint64_t>(load.prompt_tokens + load.new_tokens / 2);
  m.read_bandwidth = model->read_bandwidth(m.bytes_per_token);
  return model;
}

int run(const Arguments& arguments) {
  OrderedJson results = OrderedJson::array();
  std::unique_ptr<infer::PackedModel> reference;
  std::optional<kernels::Level> reference_level;
  for (Measurement& m : variants(arguments)) {
    // On a GPU activations are always exact: int8 would be refused, or with --device auto run on
    // the processor.
    if (reference && reference->on_gpu() && m.options.activations == kernels::Activations::kInt8)
      continue;
    auto model = measure(arguments, m);
    if (!reference && !arguments.has("json")) {
      std::printf("%s binarized weights, %s\n", format_count(model->binarized_weights()).c_str(),
                  place_of(*model).c_str());
    }
    if (reference) {
      AtLevel expected(*reference, reference_level), found(*model, m.level);
      m.mean_kl = eval::compare_logits(expected, found, comparison_windows(*model)).mean_kl;
    } else {
      reference = std::move(model);
      reference_level = m.level;
    }
    arguments.has("json") ? results.push_back(to_json(m)) : print(m);
    std::fflush(stdout);
  }
  if (arguments.has("json")) std::cout << results.dump(1) << "\n";
  return 0;
}

}  // namespace

Verb bench_verb() {
  return {
      "bench",
      "measure a packed model's speed, and what faster settings cost",
      "Feeds a prompt of random ids, then decodes greedily and takes the median step (and the "
      "fastest, for machines that do other things too). Beside it stand the bytes that a token "
      "must read "
      "and the speed at which the same threads, or the GPU, read a buffer of that size. --compare "
      "measures exact and int8 activations with the stored and an int8 head and with keys and "
      "values in fp32 and fp16, --kernels each instruction set that this processor has; the mean "
      "KL divergence is from the first one "
      "measured, in nats per token.",
      "",
      joined({{"model", "DIR", "packed export, or a native one"},
              {"config", "FILE",
               "instead: random weights of this architecture (config.json or a run configuration)"},
              {"threads", "N", "0: all processors", "0"},
              device_option(),
              {"prompt-tokens", "N", "length of the prompt", "512"},
              {"texts", "N",
               "1 to 64: decode so many together, as a server does for its clients; rates are of "
               "all together",
               "1"},
              {"new-tokens", "N", "tokens to decode", "64"},
              {"compare", "", "all variants instead of --activations, --head and --cache"},
              {"kernels", "", "as given, by the kernels of each instruction set"},
              {"json", "", "print JSON"},
              head_screen_option()},
             packed_options()),
      {"fbi-llm bench --model export/a-packed",
       "fbi-llm bench --config configs/1.3b.json --threads 2 --compare"},
      run};
}

}  // namespace fbi::cli
