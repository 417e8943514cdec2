#pragma once

#include <optional>
#include <utility>

#include "fbi/core/signals.h"

namespace fbi::cli {

/// What `evaluate` returns; nullopt when a stop was asked for between two of its reports of
/// progress, which `options.on_progress` gets.
template <class Options, class Evaluate>
auto unless_stopped(Options options, const Evaluate& evaluate)
    -> std::optional<decltype(evaluate(options))> {
  struct StopAsked {};
  options.on_progress = [report = std::move(options.on_progress)](const auto& progress) {
    if (stop_requested()) throw StopAsked();
    report(progress);
  };
  try {
    return evaluate(options);
  } catch (const StopAsked&) {
    return std::nullopt;
  }
}

}  // namespace fbi::cli
