#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/packed_arguments.h"
#include "cli/runtime/verbs.h"
#include "fbi/config/huggingface.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/human.h"
#include "fbi/core/random.h"
#include "fbi/eval/compare.h"
#include "fbi/kernels/dispatch.h"

namespace fbi::cli::runtime {
namespace {

using OrderedJson = nlohmann::ordered_json;

/// One way to run a model, and what was measured.
struct Measurement {
  std::string name;
  infer::PackedOptions options;
  std::string dtype;
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

/// An architecture file, or the `model` section of a run configuration.
config::ModelConfig read_architecture(const std::string& file) {
  auto json = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false,
                                    /*ignore_comments=*/true);
  if (!json.is_object()) throw DataError(file + ": expected a JSON object");
  if (json.contains("model")) json = json["model"];
  config::ModelConfig model = config::model_config_from_hf_json(json.dump(), file);
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

/// Greedy decoding behind a prompt.
void measure_speed(infer::PackedModel& model, std::int64_t prompt_tokens, std::int64_t new_tokens,
                   Measurement& out) {
  std::vector<float> logits(static_cast<std::size_t>(model.vocab_size()));
  const auto prompt = random_ids(prompt_tokens, model.vocab_size());
  const auto session = model.start_decoding();
  out.prompt_tokens_per_second =
      static_cast<double>(prompt_tokens) / seconds_of([&] { session->feed(prompt, logits); });
  std::vector<double> steps;
  for (std::int64_t k = 0; k < new_tokens; ++k) {
    const auto id = static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
    steps.push_back(seconds_of([&] { session->feed({&id, 1}, logits); }));
  }
  std::ranges::sort(steps);
  out.tokens_per_second = 1 / steps[steps.size() / 2];
  out.best_tokens_per_second = 1 / steps.front();
}

eval::WindowSource comparison_windows(const infer::PackedModel& model) {
  const std::int64_t length = std::min<std::int64_t>(32, model.max_position());
  return eval::stream_windows(random_ids(4 * length, model.vocab_size()), length);
}

/// The variants that --compare runs: the first is what the others are compared with.
std::vector<Measurement> variants(const Arguments& arguments) {
  infer::PackedOptions base = packed_options_of(arguments);
  if (!arguments.has("compare")) return {{"as given", base, {}}};
  std::vector<Measurement> all;
  for (const auto activations : {kernels::Activations::kExact, kernels::Activations::kInt8}) {
    for (const bool int8_head : {false, true}) {
      infer::PackedOptions options = base;
      options.activations = activations;
      if (int8_head) options.head = kernels::Storage::kInt8;
      const std::string name = activations == kernels::Activations::kExact ? "exact" : "int8";
      all.push_back({name + (int8_head ? ", int8 head" : ""), options, {}});
    }
  }
  return all;
}

OrderedJson to_json(const Measurement& m) {
  return {{"name", m.name},
          {"dtype", m.dtype},
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
      "%-18s %10.1f tokens/s prompt %9.1f tokens/s decode (best step %.1f)  %8s per token  %3.0f "
      "%% of %.1f GB/s  KL %.2g\n",
      m.name.c_str(), m.prompt_tokens_per_second, m.tokens_per_second, m.best_tokens_per_second,
      format_bytes(m.bytes_per_token).c_str(), 100 * m.share(), m.read_bandwidth / 1e9, m.mean_kl);
}

int run(const Arguments& arguments) {
  const std::int64_t prompt_tokens = arguments.integer("prompt-tokens"),
                     new_tokens = arguments.integer("new-tokens");
  if (prompt_tokens < 1 || new_tokens < 1)
    throw UsageError("--prompt-tokens and --new-tokens: expected at least 1");
  OrderedJson results = OrderedJson::array();
  std::unique_ptr<infer::PackedModel> reference;
  for (Measurement& m : variants(arguments)) {
    // On a GPU activations are always exact: int8 would be refused, or with --device auto run on
    // the processor.
    if (reference && reference->on_gpu() && m.options.activations == kernels::Activations::kInt8)
      continue;
    auto model = open(arguments, m.options);
    m.dtype = model->dtype_description();
    m.bytes_per_token =
        model->bytes_per_token() + model->cache_bytes_per_position() *
                                       static_cast<std::uint64_t>(prompt_tokens + new_tokens / 2);
    if (!reference && !arguments.has("json")) {
      std::printf("%s binarized weights, %s\n", format_count(model->binarized_weights()).c_str(),
                  place_of(*model).c_str());
    }
    measure_speed(*model, prompt_tokens, new_tokens, m);
    m.read_bandwidth = model->read_bandwidth(m.bytes_per_token);
    if (reference)
      m.mean_kl = eval::compare_logits(*reference, *model, comparison_windows(*model)).mean_kl;
    if (!reference) reference = std::move(model);
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
      "measures exact and int8 activations with the "
      "stored and an int8 head, and their mean KL divergence from the first, in nats per token.",
      "",
      joined({{"model", "DIR", "packed export", "", false, false},
              {"config", "FILE",
               "instead: random weights of this architecture (config.json or a run configuration)",
               "", false, false},
              {"threads", "N", "0: all processors", "0", false, false},
              device_option(),
              {"prompt-tokens", "N", "length of the prompt", "512", false, false},
              {"new-tokens", "N", "tokens to decode", "64", false, false},
              {"compare", "", "all variants instead of --activations and --head", "", false, false},
              {"json", "", "print JSON", "", false, false}},
             packed_options()),
      {"fbi-llm bench --model export/a-packed",
       "fbi-llm bench --config configs/1.3b.json --threads 2 --compare"},
      run};
}

}  // namespace fbi::cli::runtime
