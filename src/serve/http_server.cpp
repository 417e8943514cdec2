#include "fbi/serve/http_server.h"

#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "serve/completion_api.h"
#include "serve/http_connections.h"
#include "serve/metrics.h"

namespace fbi::serve {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kJson = "application/json";
constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kModels = "/v1/models";
constexpr const char* kHealth = "/health";
constexpr const char* kMetrics = "/metrics";
constexpr int kReadSeconds = 10, kWriteSeconds = 30;      // without any progress
constexpr auto kBodyLimit = std::chrono::seconds(30);     // for all of a body,
constexpr auto kLastBodyLimit = std::chrono::seconds(1);  // and while the server is being stopped
constexpr auto kLook = std::chrono::milliseconds(100);    // how often a client is looked at
constexpr auto kStatusLimit = std::chrono::seconds(1);    // then an answer begins without a text
constexpr auto kQuiet = std::chrono::seconds(10);         // between two signs of life in a stream

std::string client_of(const httplib::Request& http) {
  return concat(http.remote_addr, ":", http.remote_port);
}

/// A server may leave ranges out of account, by which the library would cut our answers, errors
/// too, and encodings: it would compress with Brotli's slowest setting, which takes longer than
/// many a text. The request is its own, and not const.
void forget_what_changes_answers(const httplib::Request& http) {
  auto& request = const_cast<httplib::Request&>(http);
  request.ranges.clear();
  request.headers.erase("Accept-Encoding");
}

bool is_under(const std::string& path, const std::string& folder) {
  return path.starts_with(folder + "/");
}

/// By which requests are counted: what clients invent is one kind.
std::string endpoint_of(const std::string& path) {
  for (const char* known : {kCompletions, kModels, kHealth, kMetrics}) {
    if (path == known) return path;
  }
  return is_under(path, kModels) ? kModels : "other";
}

/// What a client sent, for the log: one line, not too long.
std::string printable(std::string_view text) {
  std::string shown(text.substr(0, 200));
  std::ranges::replace_if(
      shown, [](unsigned char c) { return c < ' ' || c == 0x7F; }, '?');
  return shown;
}

/// The body, of at most `limit` bytes, however it is sent, unless it takes too long.
std::string read_body(const httplib::Request& http, const httplib::ContentReader& reader,
                      std::size_t limit, const std::function<bool()>& stopping) {
  if (!http.has_header("Content-Length") && !http.has_header("Transfer-Encoding")) {
    throw ApiError(411, "the request has neither Content-Length nor Transfer-Encoding");
  }
  if (http.is_multipart_form_data()) throw ApiError(415, "expected a body of application/json");
  std::string body;
  bool too_large = false, too_slow = false;
  const auto begun = Clock::now();
  const bool complete = reader([&](const char* data, std::size_t size) {
    too_slow = Clock::now() - begun > (stopping() ? kLastBodyLimit : kBodyLimit);
    if (too_slow) return false;
    // What is too much is read and forgotten, so that the client gets to the answer.
    too_large = too_large || size > limit - body.size();
    if (!too_large) body.append(data, size);
    return true;
  });
  if (too_large) {
    throw ApiError(413, concat("the body is larger than ", limit, " bytes (--max-body-bytes)"));
  }
  too_slow = too_slow || (!complete && Clock::now() - begun >= std::chrono::seconds(kReadSeconds));
  if (too_slow) throw ApiError(408, "the body did not come in time");
  if (!complete) throw ApiError(400, "the body is not complete");
  return body;
}

/// The answer to one POST, from its acceptance on. Lives as long as the response does.
class Answer {
 public:
  Answer(const CompletionApi& api, const httplib::Request& http, CompletionRequest request,
         std::shared_ptr<infer::Generation> generation, std::uint64_t number,
         std::atomic<int>& active, Metrics& metrics)
      : api_(api),
        client_(client_of(http)),
        request_(std::move(request)),
        generation_(std::move(generation)),
        number_(number),
        active_(active),
        metrics_(metrics) {
    ++active_;
    for (std::size_t k = 0; k < request_.before.size(); ++k) {
      choices_.push_back({k, request_.before[k], "", {}});
    }
    usage_.prompt_tokens = request_.prompt_tokens;
  }
  ~Answer() {
    --active_;
    generation_->cancel();
    if (refused_) return;
    if (!outcome_) end(Metrics::Outcome::kCancelled, "cancelled, the client is gone");
    log::info("POST ", kCompletions, " ", request_.stream ? "stream, " : "", choices_.size(),
              choices_.size() == 1 ? " text, " : " texts, ", usage_.prompt_tokens,
              usage_.cached_tokens > 0 ? concat(" (", usage_.cached_tokens, " known)") : "", " + ",
              usage_.new_tokens, " tokens, ",
              std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun_).count(),
              " ms, ", client_, ": ", *outcome_);
  }

  bool stream() const { return request_.stream; }

  /// Waits a little for the first text, so that what goes wrong before it can have its status; not
  /// longer, because only while it writes the server sees whether the client is still there. Throws
  /// what ended a text before its time.
  void wait_for_beginning() {
    refused_ = true;
    take(generation_->wait(kStatusLimit));
    refused_ = false;
  }

  /// Everything from the first byte of the body on. False: the connection is to be cut.
  bool write(httplib::DataSink& sink) {
    try {
      return request_.stream ? write_stream(sink) : write_whole(sink);
    } catch (const std::exception& error) {  // the library lets it end the program
      end(Metrics::Outcome::kFailed, error.what());
      if (!request_.stream) return false;  // the answer has begun as a good one
      event(sink, error_json(500, error.what()));
      sink.done();
      return true;
    }
  }

 private:
  using News = std::vector<infer::Generation::News>;

  /// Adds to choices_; throws what ended a text before its time.
  void take(const News& news) {
    for (const auto& [index, text, ended] : news) {
      choices_[index].text += text;
      if (!ended) continue;
      const infer::GenerateResult result = generation_->result(index);
      choices_[index].finish_reason = finish_reason(result.finish_reason);
      if (request_.logprobs) {
        choices_[index].logprobs = Likelihoods{request_.texts[index].prompt, request_.echo,
                                               request_.before[index], result.scores};
      }
      usage_.new_tokens += result.new_tokens;
      const bool first = index % static_cast<std::size_t>(request_.texts_of_a_prompt) == 0;
      if (first) usage_.cached_tokens += result.cached_tokens;
      metrics_.add_text(result);
    }
  }

  /// Proxies cut connections that are idle; blanks in front change nothing of JSON.
  bool write_whole(httplib::DataSink& sink) {
    auto written = begun_;
    while (!generation_->ended()) {
      if (Clock::now() - written > kQuiet) {
        if (!send(sink, " ")) return false;
        written = Clock::now();
      }
      take(generation_->wait(kLook));
      if (!sink.is_writable()) return false;
    }
    return send(sink, api_.completion_json(number_, created_, choices_, &usage_)) && finish(sink);
  }

  bool write_stream(httplib::DataSink& sink) {
    auto written = begun_;
    for (;;) {
      for (Choice& choice : choices_) {
        if (choice.text.empty() && (choice.finish_reason.empty() || told(choice.index))) continue;
        if (!event(sink, api_.completion_json(number_, created_, {choice}, nullptr))) return false;
        choice.text.clear();
        written = Clock::now();
        if (!choice.finish_reason.empty()) told_.insert(choice.index);
      }
      if (generation_->ended()) break;
      if (Clock::now() - written > kQuiet) {  // a comment: proxies cut connections that are idle
        if (!send(sink, ": waiting\n\n")) return false;
        written = Clock::now();
      }
      take(generation_->wait(kLook));
      if (!sink.is_writable()) return false;
    }
    if (request_.include_usage &&
        !event(sink, api_.completion_json(number_, created_, {}, &usage_))) {
      return false;
    }
    return event(sink, "[DONE]") && finish(sink);
  }
  bool told(std::size_t index) const { return told_.contains(index); }

  static bool send(httplib::DataSink& sink, const std::string& text) {
    return sink.write(text.data(), text.size());
  }
  static bool event(httplib::DataSink& sink, const std::string& data) {
    return send(sink, "data: " + data + "\n\n");
  }
  bool finish(httplib::DataSink& sink) {
    end(Metrics::Outcome::kDone, "done");  // before the client knows it
    sink.done();
    return true;
  }
  void end(Metrics::Outcome outcome, const std::string& words) {
    outcome_ = words;
    metrics_.add_completion(outcome, usage_,
                            std::chrono::duration<double>(Clock::now() - begun_).count());
  }

  const CompletionApi& api_;
  const std::string client_;
  const CompletionRequest request_;
  const std::shared_ptr<infer::Generation> generation_;
  const std::uint64_t number_;
  std::atomic<int>& active_;  // answers that are not written yet
  Metrics& metrics_;
  const std::int64_t created_ = std::chrono::duration_cast<std::chrono::seconds>(
                                    std::chrono::system_clock::now().time_since_epoch())
                                    .count();
  const Clock::time_point begun_ = Clock::now();
  std::vector<Choice> choices_;  // of a stream: what has not been sent
  std::set<std::size_t> told_;   // choices whose end has been sent
  Usage usage_;
  bool refused_ = false;  // then the answer is an error, which is logged where it is made
  std::optional<std::string> outcome_;  // none: the client has gone
};

}  // namespace

class HttpServer::Impl {
 public:
  Impl(infer::Engine& engine, const infer::PackedModel& model, const text::Tokenizer& tokenizer,
       const HttpOptions& options)
      : engine_(engine),
        api_(model, tokenizer, options.model_name, options.max_texts),
        options_(options) {
    set_up_connections();
    server_.set_pre_routing_handler([this](const httplib::Request& http, httplib::Response& out) {
      return refuse_early(http, out);
    });
    server_.set_expect_100_continue_handler(
        [this](const httplib::Request& http, httplib::Response& out) {
          const bool refused = refuse_early(http, out) == httplib::Server::HandlerResponse::Handled;
          return refused ? out.status : 100;
        });
    // Right before an answer leaves, so that a client that has it is counted.
    server_.set_post_routing_handler([this](const httplib::Request& http, httplib::Response& out) {
      if (!options_.cors_origin.empty())
        out.set_header("Access-Control-Allow-Origin", options_.cors_origin);
      metrics_.add_request(endpoint_of(http.path), out.status);
    });
    server_.Get(kMetrics, [this](const httplib::Request&, httplib::Response& out) {
      out.set_content(metrics_.text(engine_.load()), Metrics::kContentType);
    });
    server_.Get(kHealth, [this](const httplib::Request&, httplib::Response& out) {
      const auto load = engine_.load();
      const bool failed = !load.failure.empty();
      nlohmann::ordered_json json = {{"status", failed          ? "failed"
                                                : load.stopping ? "stopping"
                                                                : "ok"},
                                     {"running", load.running},
                                     {"waiting", load.waiting}};
      if (failed) json["error"] = load.failure;
      if (load.stopping) out.status = 503;
      out.set_content(json.dump(), kJson);
    });
    server_.Get(kModels, [this](const httplib::Request&, httplib::Response& out) {
      out.set_content(api_.models_json(), kJson);
    });
    server_.Get(concat(kModels, "/.+"), [this](const httplib::Request&, httplib::Response& out) {
      out.set_content(api_.model_json(), kJson);
    });
    server_.Post(kCompletions,
                 [this](const httplib::Request& http, httplib::Response& out,
                        const httplib::ContentReader& reader) { complete(http, out, reader); });
    // For what the library itself refuses: the lines of a request that are no HTTP, or too long.
    server_.set_error_handler([](const httplib::Request& http, httplib::Response& out) {
      if (!out.body.empty()) return;
      forget_what_changes_answers(http);
      refuse(http, out, out.status, "the request is not understood");
    });
  }

  int bind() {
    errno = 0;
    int port = options_.port;
    if (port == 0) {
      port = server_.bind_to_any_port(options_.host);
    } else if (!server_.bind_to_port(options_.host, port)) {
      port = -1;
    }
    if (port > 0) {
      server_.lengthen_backlog();
      return port;
    }
    const int reason = errno;
    throw UsageError(
        concat("cannot listen on ", options_.host, " port ", options_.port, ": ",
               reason == EADDRINUSE ? "another program has it; choose another with --port"
               : reason == 0        ? "no such host; give an address of this machine with --host"
                                    : std::strerror(reason)));
  }

  void run() { server_.listen_after_bind(); }

  /// The library cuts answers that it has not begun to write, so they come first.
  void stop() {
    const auto limit = Clock::now() + std::chrono::seconds(kWriteSeconds);
    while (active_ > 0 && Clock::now() < limit) std::this_thread::sleep_for(kLook / 5);
    server_.stop();
  }

 private:
  /// The library's own limits, but: an occupied port is an error, one request per connection (an
  /// idle one would hold a thread), bounded threads.
  void set_up_connections() {
    server_.set_socket_options([](int socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    server_.set_keep_alive_max_count(1);
    server_.set_read_timeout(kReadSeconds);
    server_.set_write_timeout(kWriteSeconds);
    server_.set_tcp_nodelay(true);
    server_.new_task_queue = [this] { return new BoundedPool(options_.connections); };
  }

  static void refuse(const httplib::Request& http, httplib::Response& out, int status,
                     std::string_view message, std::string_view field = {},
                     std::string_view code = {}) {
    out.status = status;
    out.set_content(error_json(status, message, field, code), kJson);
    log::info(printable(http.method), " ", printable(http.path), " ", status, ", ", client_of(http),
              ": ", printable(message));
  }

  /// Before the library reads a body that nobody asked for.
  httplib::Server::HandlerResponse refuse_early(const httplib::Request& http,
                                                httplib::Response& out) const {
    forget_what_changes_answers(http);
    const bool model = http.path == concat(kModels, "/", api_.model_name());
    const bool get = model || http.path == kHealth || http.path == kMetrics || http.path == kModels;
    const bool post = http.path == kCompletions;
    if (http.method == "OPTIONS" && (get || post) && !options_.cors_origin.empty()) {
      out.status = 204;  // a browser asks before the page's own request, without its key
      out.set_header("Access-Control-Allow-Methods", get ? "GET, HEAD" : "POST");
      out.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type, *");
    } else if (options_.keys && is_under(http.path, "/v1") &&
               !options_.keys->admit(http.get_header_value("Authorization"))) {
      refuse_key(http, out);
    } else if (!get && !post) {
      refuse_path(http, out);
    } else if (get ? http.method != "GET" && http.method != "HEAD" : http.method != "POST") {
      const char* allowed = get ? "GET, HEAD" : "POST";
      out.set_header("Allow", allowed);
      refuse(http, out, 405, concat(http.path, " takes ", allowed));
    } else {
      return httplib::Server::HandlerResponse::Unhandled;
    }
    return httplib::Server::HandlerResponse::Handled;
  }

  /// With no word of what was sent: it may be a key but for a letter.
  static void refuse_key(const httplib::Request& http, httplib::Response& out) {
    out.set_header("WWW-Authenticate", "Bearer");
    refuse(http, out, 401,
           http.has_header("Authorization")
               ? "the key is not one of this server's"
               : "this server asks for a key; send it as the header Authorization: Bearer KEY",
           {}, "invalid_api_key");
  }

  static void refuse_path(const httplib::Request& http, httplib::Response& out) {
    if (is_under(http.path, kModels)) {
      refuse(http, out, 404, concat("no such model; GET ", kModels, " names the one there is"), {},
             "model_not_found");
    } else if (http.path == "/v1/chat/completions") {
      refuse(http, out, 404,
             concat("there is no chat: the models are base models, which continue a text; use ",
                    kCompletions));
    } else {
      refuse(http, out, 404,
             concat("unknown path; there are ", kCompletions, ", ", kModels, ", ", kHealth, " and ",
                    kMetrics));
    }
  }

  void complete(const httplib::Request& http, httplib::Response& out,
                const httplib::ContentReader& reader) {
    try {
      const auto stopping = [this] { return engine_.load().stopping; };
      CompletionRequest request =
          api_.parse(read_body(http, reader, options_.max_body_bytes, stopping));
      const auto generation = engine_.submit(request.texts);
      const auto answer = std::make_shared<Answer>(api_, http, std::move(request), generation,
                                                   ++requests_, active_, metrics_);
      answer->wait_for_beginning();
      begin(http, out, answer);
    } catch (const ApiError& error) {
      refuse(http, out, error.status, error.what(), error.field, error.code);
    } catch (const infer::BusyError& error) {
      out.set_header("Retry-After", std::to_string(metrics_.seconds_until_room()));
      refuse(http, out, 503, error.what());
    } catch (const infer::CancelledError& error) {
      out.set_header("Retry-After", "1");
      refuse(http, out, 503, error.what());
    } catch (const UsageError& error) {
      refuse(http, out, 400, error.what());
    } catch (const std::bad_alloc&) {
      refuse(http, out, 503, "out of memory; try again with fewer or shorter texts");
    } catch (const std::exception& error) {
      refuse(http, out, 500, error.what());
    }
  }

  static void begin(const httplib::Request& http, httplib::Response& out,
                    const std::shared_ptr<Answer>& answer) {
    const char* type = answer->stream() ? "text/event-stream" : kJson;
    if (answer->stream()) {
      out.set_header("Cache-Control", "no-cache");
      out.set_header("X-Accel-Buffering", "no");  // nginx would keep events back
    }
    const auto write = [answer](std::size_t, httplib::DataSink& sink) {
      return answer->write(sink);
    };
    if (http.version == "HTTP/1.0") {
      out.set_content_provider(type, write);
    } else {
      out.set_chunked_content_provider(type, write);
    }
  }

  infer::Engine& engine_;
  const CompletionApi api_;
  const HttpOptions options_;
  Metrics metrics_;
  Listener server_;
  std::atomic<std::uint64_t> requests_ = 0;
  std::atomic<int> active_ = 0;
};

HttpServer::HttpServer(infer::Engine& engine, const infer::PackedModel& model,
                       const text::Tokenizer& tokenizer, const HttpOptions& options)
    : impl_(std::make_unique<Impl>(engine, model, tokenizer, options)) {}
HttpServer::~HttpServer() = default;

int HttpServer::bind() {
  return impl_->bind();
}
void HttpServer::run() {
  impl_->run();
}
void HttpServer::stop() {
  impl_->stop();
}

}  // namespace fbi::serve
