#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>
#include <limits>
#include <thread>

#include "cli/packed_arguments.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/log.h"
#include "fbi/core/signals.h"
#include "fbi/core/system.h"
#include "fbi/infer/engine.h"
#include "fbi/serve/http_server.h"

namespace fbi::cli {
namespace {

constexpr std::size_t kOtherConnections = 32;  // of those who look, are refused, or still send
constexpr std::uint64_t kMegabyte = 1'000'000;
constexpr std::chrono::seconds kLastSeconds(5);  // for connections, when all texts have ended
constexpr std::int64_t kMaxBatch = 256,
                       kMaxQueue =
                           700;  // cpp-httplib waits with select: no descriptor may be above 1,023

/// The folder's own name.
std::string model_name(const Arguments& arguments) {
  return std::filesystem::weakly_canonical(arguments.text("model")).filename().string();
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

/// What --prefix-cache-mb and --cache-mb leave open: a quarter of the memory that is left, 1 GB at
/// most, and of the rest four fifths. A GPU tells itself when it is full.
void divide_memory(const Arguments& arguments, const infer::PackedModel& model,
                   infer::EngineOptions& options) {
  const auto bytes_of = [&](const char* option) {
    return static_cast<std::uint64_t>(arguments.integer(option, 0, 1 << 30)) * kMegabyte;
  };
  options.prefix_cache_bytes = bytes_of("prefix-cache-mb");
  options.cache_bytes = bytes_of("cache-mb");
  std::uint64_t left = available_memory_bytes();
  const bool known = !model.on_gpu() && usable_memory_bytes() > 0;
  if (known && !arguments.given("prefix-cache-mb"))
    options.prefix_cache_bytes = std::min(options.prefix_cache_bytes, left / 4);
  left -= std::min(left, options.prefix_cache_bytes);
  if (options.cache_bytes == 0)
    options.cache_bytes = known ? left / 5 * 4 : std::numeric_limits<std::uint64_t>::max();
}

void introduce(const infer::PackedModel& model, const infer::EngineOptions& options,
               const serve::HttpOptions& http, int port) {
  const std::uint64_t one =
      model.cache_bytes_per_position() * static_cast<std::uint64_t>(model.max_position());
  const std::uint64_t all = one * static_cast<std::uint64_t>(options.max_batch);
  const std::uint64_t most = std::max(one, std::min(all, options.cache_bytes));
  log::info(model.dtype_description(), ", ", model.threads(),
            " threads; keys and values take up to ", format_bytes(one), " for a text of ",
            model.max_position(), " tokens, ", format_bytes(most),
            " for those that are written together, ", format_bytes(options.prefix_cache_bytes),
            " for past ones");
  if (options.cache_bytes < one)
    log::warn("the memory for keys and values, ", format_bytes(options.cache_bytes),
              ", holds no text of that length, so texts may wait for each other: --cache fp16 "
              "halves what one takes, a smaller --prefix-cache-mb leaves more");
  if (http.keys) log::info("requests to /v1 must bring a key; known keys: ", http.keys->size());
  if (!is_loopback(http.host)) {
    log::warn(http.keys ? "without TLS in front, keys and texts can be read on their way to "
                        : "there is no --api-key-file: everybody may use this server who reaches ",
              http.host);
  }
  const bool colons = http.host.find(':') != std::string::npos;  // an address of IPv6
  log::info("listening on http://", colons ? "[" + http.host + "]" : http.host, ":", port);
}

int run_serve(const Arguments& arguments) {
  infer::EngineOptions engine_options = {.max_batch = arguments.integer("max-batch", 1, kMaxBatch),
                                         .queue = arguments.integer("queue", 0, kMaxQueue)};
  const std::int64_t texts = engine_options.max_batch + engine_options.queue;
  serve::HttpOptions http;
  http.host = arguments.text("host");
  http.port = static_cast<int>(arguments.integer("port", 0, 65535));
  http.max_body_bytes =
      static_cast<std::size_t>(arguments.integer("max-body-bytes", 1, std::int64_t{1} << 30));
  http.connections = static_cast<std::size_t>(texts) + kOtherConnections;
  if (arguments.has("api-key-file")) http.keys.emplace(arguments.text("api-key-file"));
  if (arguments.has("cors-origin")) http.cors_origin = arguments.text("cors-origin");
  const std::chrono::seconds stop_limit(arguments.integer("stop-seconds", 0, 86400));

  infer::PackedModel model(arguments.text("model"), packed_options_of(arguments));
  const auto tokenizer = load_packed_tokenizer(arguments, model);
  divide_memory(arguments, model, engine_options);
  infer::Engine engine(model, *tokenizer, engine_options);
  http.model_name = model_name(arguments);
  http.max_texts = texts;
  serve::HttpServer server(engine, model, *tokenizer, http);
  introduce(model, engine_options, http, server.bind());
  auto listener = std::async(std::launch::async, [&] { server.run(); });
  const auto listens = [&] {
    return listener.wait_for(std::chrono::milliseconds(50)) == std::future_status::timeout;
  };
  while (!stop_requested() && engine.load().failure.empty() && listens()) {
  }

  const bool asked = stop_requested() != 0;
  const auto load = engine.load();
  const std::string failure = !load.failure.empty() ? load.failure
                              : asked
                                  ? ""
                                  : "no connections can be accepted any more, for want of memory "
                                    "or open files";
  if (failure.empty()) {
    log::info("stopping: ", load.running, " texts are being written and ", load.waiting,
              " are waiting, at most ", stop_limit.count(), " s for them");
  } else {
    log::error(failure, "; the server ends, start it again");
  }
  engine.stop(stop_limit);
  server.stop();
  const bool ended_well = failure.empty() && engine.load().failure.empty();
  const int code = static_cast<int>(ended_well ? ExitCode::kOk : ExitCode::kUnexpected);
  if (listener.wait_for(kLastSeconds) == std::future_status::timeout) {
    // The library waits for clients that send a header, or take an answer, byte by byte.
    log::warn("stopped; connections that do not end are cut");
    std::_Exit(code);
  }
  listener.get();
  log::info("stopped");
  return code;
}

}  // namespace

Verb serve_verb() {
  Verb verb{
      "serve",
      "answer completion requests over HTTP",
      "Loads a packed export and answers POST /v1/completions as OpenAI's interface has it "
      "(prompt, max_tokens, temperature, top_p, "
      "n, seed, stop, echo, logprobs, frequency_penalty, presence_penalty, stream, stream_options; "
      "top_k, min_p and repetition_penalty "
      "besides), GET /v1/models, GET /health and, for Prometheus, GET /metrics. "
      "Requests are continued together, joining and leaving between tokens; each gets the text "
      "that `generate` gives for its prompt, "
      "options and seed. A field that would change the result and is not supported is refused with "
      "status 400, what does not fit into "
      "the queue with 503 and Retry-After. A client that goes away has its text cancelled. SIGINT "
      "or SIGTERM ends the server once its "
      "texts are done, an error of the GPU at once, with exit code 1. Try: curl "
      "http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": "
      "50, \"stream\": true}'",
      "",
      joined(
          packed_model_options(),
          {{"host", "ADDRESS", "where to listen; 0.0.0.0: everywhere", "127.0.0.1"},
           {"port", "N", "0: one that is free", "8080"},
           head_screen_option(),
           {"api-key-file", "FILE",
            "keys, one per line, of which a request to /v1 must bring one (Authorization: Bearer "
            "KEY); without the option everybody may ask"},
           {"cors-origin", "ORIGIN",
            "pages of this origin, e.g. https://example.org, may ask from a browser; \"*\": all"},
           {"max-batch", "N", "texts that are continued at the same time, 1 to 256", "16"},
           {"queue", "N", "texts that may wait for that, at most 700", "256"},
           {"cache-mb", "N",
            "memory in MB for keys and values of texts that are continued; the next text waits "
            "until there is room for its longest form; 0: four fifths of what the machine, or "
            "container, has left behind model and --prefix-cache-mb; on a GPU as much as it has",
            "0"},
           {"prefix-cache-mb", "N",
            "memory in MB for keys and values of past texts: prompts that begin like one of them "
            "are read from there on; 0: none; by default no more than a quarter of the memory that "
            "is "
            "left",
            "1000"},
           {"max-body-bytes", "N", "longest body of a request", "1048576"},
           {"stop-seconds", "S", "time that texts have to end after SIGTERM", "10"}}),
      {"fbi-llm serve --model export/a-packed --port 8080",
       "fbi-llm serve --model export/a-packed --activations int8 --head int8 --max-batch 32 "
       "--queue 200"},
      run_serve};
  verb.heeds_stop = true;
  return verb;
}

}  // namespace fbi::cli
