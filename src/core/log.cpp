#include "fbi/core/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>
#include <mutex>

namespace fbi::log {
namespace {

struct State {
  State() : logger("fbi") {
    logger.set_level(spdlog::level::debug);
    logger.flush_on(spdlog::level::debug);
    // A log that can't be written (full disk) must not end or disturb a training run.
    logger.set_error_handler([](const std::string&) {});
  }
  std::mutex mutex;
  spdlog::logger logger;
};

// Never destroyed: destructors of other static objects may still log.
State& state() {
  static State& instance = *new State;
  return instance;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarn:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void add_terminal(Level level) {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_st>();
  sink->set_level(to_spdlog(level));
  sink->set_pattern("%H:%M:%S %^%l%$ %v");
  const std::lock_guard lock(state().mutex);
  state().logger.sinks().push_back(std::move(sink));
}

FileSink::FileSink(const std::string& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_st>(path);
    sink->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    const std::lock_guard lock(state().mutex);
    state().logger.sinks().push_back(sink);
    sink_ = std::move(sink);
  } catch (const spdlog::spdlog_ex& error) {
    throw DiskError(concat("cannot open log file ", path, ": ", error.what()));
  }
}

FileSink::~FileSink() {
  const std::lock_guard lock(state().mutex);
  std::erase_if(state().logger.sinks(), [&](const auto& sink) { return sink == sink_; });
}

void reset() {
  const std::lock_guard lock(state().mutex);
  state().logger.flush();
  state().logger.sinks().clear();
}

void write(Level level, std::string_view message) {
  const std::lock_guard lock(state().mutex);
  state().logger.log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

}  // namespace fbi::log
