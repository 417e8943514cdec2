#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "fbi/infer/engine.h"
#include "fbi/infer/packed_model.h"
#include "fbi/serve/api_keys.h"
#include "fbi/text/tokenizer.h"

/// OpenAI's completions interface over HTTP.
namespace fbi::serve {

struct HttpOptions {
  std::string model_name;        ///< as answers call it
  std::int64_t max_texts = 272;  ///< what one request may ask for
  std::string host = "127.0.0.1";
  int port = 8080;  ///< 0: any that is free
  std::size_t max_body_bytes = 1 << 20;
  std::size_t connections = 304;  ///< served at the same time; further ones wait to be accepted
  std::optional<ApiKeys> keys;    ///< for /v1; none: everybody may ask
  std::string cors_origin;        ///< whose pages a browser lets ask, "*": all; "": none
};

/// /v1/completions, /v1/models, /health and /metrics over HTTP, one line in the log for every
/// request. Every connection has a thread of its own, so that a client that reads slowly holds up
/// nobody; one that goes away, or takes nothing for some seconds, has its texts cancelled.
class HttpServer {
 public:
  /// `model` and `tokenizer` are those of the engine; all outlive the server.
  HttpServer(infer::Engine& engine, const infer::PackedModel& model,
             const text::Tokenizer& tokenizer, const HttpOptions& options);
  ~HttpServer();

  /// Takes the port, and returns it. UsageError when that cannot be done.
  int bind();
  /// Answers until stop(), and those who have begun to ask by then.
  void run();
  /// From another thread, once, after Engine::stop(): run() returns when all answers are sent.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbi::serve
