#include "parity/compare.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <ostream>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>

#include "fbi/core/error.h"

namespace fbi::parity {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kTiny = 1e-30;  // keeps a relative error of 0 against 0 at 0

// Fixed tolerances of the published traces: rounding alone moves each quantity by a fifth of them
// or less, a wrong detail by 50 times as much (README of the recordings).
constexpr double kLogits = 1e-5;          // absolute
constexpr double kGradient = 1e-5;        // of the tensor's largest entry
constexpr double kScalarGradient = 1e-3;  // sums with much cancellation
constexpr double kLoss = 1e-5;            // relative
constexpr double kNorm = 1e-4;            // relative
constexpr double kFinal = 1e-5;           // absolute, for all but
constexpr double kFinalShare = 1e-4;      // of the entries: Adam's first steps divide tiny by tiny
constexpr double kLearningRate = 1e-9;    // of the peak: the same formula in double
constexpr double kWeightRounding = 1e-6;  // absolute: a few fp32 roundings of values below 1

double max_abs(const at::Tensor& x) {
  return x.abs().max().item<double>();
}

/// The largest of the values it is shown, and where it was. NaN counts as infinite.
struct Worst {
  double value = 0;
  std::string where;
  void see(double candidate, const std::string& place) {
    if (std::isnan(candidate)) candidate = kInfinity;
    if (candidate > value) *this = {candidate, place};
  }
};

Check limit(std::string quantity, const Worst& worst, double at_most) {
  return {std::move(quantity), worst.value, 0, at_most, worst.where};
}

/// The recording seen as if it were a replay.
ReplayResult recorded(const Trace& trace) {
  ReplayResult out;
  for (const auto& [name, tensor] : trace.student_init)
    if (name.ends_with(".wscale") || name.ends_with(".wbias")) out.initial_scales[name] = tensor;
  out.student_logits = trace.student_logits;
  out.teacher_logits = trace.teacher_logits;
  out.first_gradients = trace.first_gradients;
  out.effective = trace.effective;
  out.losses = trace.optimizer ? trace.micro_losses : std::vector<LossTerms>{trace.first_losses};
  out.steps = trace.steps;
  out.final_parameters = trace.final_parameters;
  return out;
}

const at::Tensor& counterpart(const NamedTensors& tensors, const std::string& name,
                              const at::Tensor& expected) {
  const auto found = tensors.find(name);
  if (found == tensors.end() || found->second.sizes() != expected.sizes())
    throw DataError(concat("the replay gave no tensor ", name, " of shape ", expected.sizes()));
  return found->second;
}

void check_same_length(const char* what, std::size_t found, std::size_t expected) {
  if (found != expected)
    throw DataError(concat("the replay gave ", found, " ", what, ", the recording has ", expected));
}

Worst worst_difference(const NamedTensors& found, const NamedTensors& expected) {
  Worst worst;
  for (const auto& [name, tensor] : expected)
    worst.see(max_abs(counterpart(found, name, tensor) - tensor), name);
  return worst;
}

Worst logits_difference(const at::Tensor& found, const at::Tensor& expected) {
  if (!found.defined() || found.sizes() != expected.sizes())
    throw DataError(concat("the replay gave no logits of shape ", expected.sizes()));
  Worst worst;
  worst.see(max_abs(found - expected), "first micro-batch");
  return worst;
}

/// Largest error of a gradient over the largest entry of its tensor; `scalars` picks those with one
/// entry, or the others.
Worst gradient_error(const NamedTensors& found, const NamedTensors& expected, bool scalars) {
  Worst worst;
  for (const auto& [name, tensor] : expected)
    if ((tensor.numel() == 1) == scalars)
      worst.see(
          max_abs(counterpart(found, name, tensor) - tensor) / std::max(max_abs(tensor), kTiny),
          name);
  return worst;
}

/// Largest relative distance of a gradient tensor in norm.
Worst gradient_distance(const NamedTensors& found, const NamedTensors& expected) {
  Worst worst;
  for (const auto& [name, tensor] : expected) {
    const double difference = (counterpart(found, name, tensor) - tensor).norm().item<double>();
    worst.see(difference / std::max(tensor.norm().item<double>(), kTiny), name);
  }
  return worst;
}

Worst loss_error(const std::vector<LossTerms>& found, const std::vector<LossTerms>& expected) {
  check_same_length("losses", found.size(), expected.size());
  Worst worst;
  for (std::size_t m = 0; m < expected.size(); ++m) {
    const auto see = [&](std::optional<double> value, std::optional<double> reference,
                         const char* term) {
      if (value && reference)
        worst.see(std::abs(*value - *reference) / *reference, concat(term, ", micro-step ", m));
    };
    see(found[m].loss, expected[m].loss, "loss");
    see(found[m].next_token, expected[m].next_token, "next token");
    see(found[m].distill, expected[m].distill, "distill");
  }
  return worst;
}

Worst norm_error(const ReplayResult& found, const ReplayResult& expected,
                 double StepValues::*member) {
  Worst worst;
  for (std::size_t k = 0; k < expected.steps.size(); ++k) {
    const double reference = expected.steps[k].*member;
    worst.see(std::abs(found.steps[k].*member - reference) / reference, concat("step ", k));
  }
  return worst;
}

Worst lr_error(const Trace& trace, const ReplayResult& found) {
  Worst worst;
  for (std::size_t k = 0; k < trace.steps.size(); ++k)
    worst.see(std::abs(found.steps[k].lr - trace.steps[k].lr) / trace.optimizer->lr,
              concat("step ", k));
  return worst;
}

/// Sum over steps and modules of the difference in flips, and the first place where there is one.
Worst flip_difference(const Trace& trace, const ReplayResult& found) {
  Worst sum;
  for (std::size_t k = 0; k < trace.steps.size(); ++k) {
    check_same_length("flip counts", found.steps[k].flips.size(), trace.binarized_modules.size());
    for (std::size_t i = 0; i < trace.binarized_modules.size(); ++i) {
      const auto difference = std::abs(found.steps[k].flips[i] - trace.steps[k].flips[i]);
      if (difference > 0 && sum.where.empty())
        sum.where = concat("first: step ", k, ", ", trace.binarized_modules[i]);
      sum.value += static_cast<double>(difference);
    }
  }
  return sum;
}

/// Over all entries of all final parameters.
struct FinalDifference {
  double mean_abs = 0, share_beyond = 0;
};

FinalDifference final_difference(const NamedTensors& found, const NamedTensors& expected) {
  double sum = 0, beyond = 0, count = 0;
  for (const auto& [name, tensor] : expected) {
    const at::Tensor difference = (counterpart(found, name, tensor) - tensor).abs();
    sum += difference.sum().item<double>();
    beyond += (difference > kFinal).logical_or(difference.isnan()).sum().item<double>();
    count += static_cast<double>(tensor.numel());
  }
  return {sum / count, beyond / count};
}

double final_sign_difference(const Trace& trace, const NamedTensors& found,
                             const NamedTensors& expected) {
  double count = 0;
  for (const std::string& module : trace.binarized_modules) {
    const std::string name = module + ".weight";
    count += ((found.at(name) > 0) != (expected.at(name) > 0)).sum().item<double>();
  }
  return count;
}

/// How far one run is from another, in the quantities that the recordings' README gives for bf16.
std::vector<Check> distances(const Trace& trace, const ReplayResult& from, const ReplayResult& to) {
  std::vector<Check> out;
  const auto add = [&out](const char* quantity, const Worst& worst) {
    out.push_back(limit(quantity, worst, kInfinity));
  };
  add("first logits, max", logits_difference(from.student_logits, to.student_logits));
  add("first gradients, norm", gradient_distance(from.first_gradients, to.first_gradients));
  add("losses, relative", loss_error(from.losses, to.losses));
  if (!trace.optimizer) return out;
  add("gradient norms, relative", norm_error(from, to, &StepValues::grad_norm));
  add("final parameters, mean",
      {final_difference(from.final_parameters, to.final_parameters).mean_abs, ""});
  add("final signs that differ",
      {final_sign_difference(trace, from.final_parameters, to.final_parameters), ""});
  return out;
}

}  // namespace

std::vector<Check> compare(const Trace& trace, const ReplayResult& replay) {
  const ReplayResult expected = recorded(trace);
  // Scales that were trained before the recording began say nothing about their initialisation.
  std::vector<Check> checks{
      limit("initial scales", worst_difference(replay.initial_scales, expected.initial_scales),
            trace.scales_from_weights ? kWeightRounding : kInfinity),
      limit("student logits", logits_difference(replay.student_logits, expected.student_logits),
            kLogits)};
  if (trace.teacher)
    checks.push_back(limit("teacher logits",
                           logits_difference(replay.teacher_logits, expected.teacher_logits),
                           kLogits));
  checks.push_back(limit("effective weights",
                         worst_difference(replay.effective, expected.effective), kWeightRounding));
  checks.push_back(limit("losses, relative", loss_error(replay.losses, expected.losses), kLoss));
  checks.push_back(limit("first gradients",
                         gradient_error(replay.first_gradients, expected.first_gradients, false),
                         kGradient));
  const Worst scalars = gradient_error(replay.first_gradients, expected.first_gradients, true);
  if (trace.pattern == ops::ScalePattern::kSingle)
    checks.push_back(limit("first gradients of scalars", scalars, kScalarGradient));
  if (!trace.optimizer) return checks;

  check_same_length("steps", replay.steps.size(), trace.steps.size());
  checks.push_back(limit("learning rate", lr_error(trace, replay), kLearningRate));
  checks.push_back(limit("gradient norms, relative",
                         norm_error(replay, expected, &StepValues::grad_norm), kNorm));
  checks.push_back(limit("norms after clipping",
                         norm_error(replay, expected, &StepValues::grad_norm_after_clip), kNorm));
  checks.push_back(limit("sign flips, sum of differences", flip_difference(trace, replay), 0));
  checks.push_back(limit("final parameters, max",
                         worst_difference(replay.final_parameters, expected.final_parameters),
                         kInfinity));
  const double share =
      final_difference(replay.final_parameters, expected.final_parameters).share_beyond;
  checks.push_back(limit(concat("final parameters beyond ", kFinal), {share, ""}, kFinalShare));
  return checks;
}

std::vector<Check> compare_bf16(const Trace& trace, const ReplayResult& bf16,
                                const ReplayResult& fp32, double after_training) {
  const ReplayResult recording = recorded(trace);
  if (trace.optimizer) check_same_length("steps", bf16.steps.size(), trace.steps.size());
  Worst unrounded;
  unrounded.value = (bf16.student_logits.to(at::kBFloat16).to(at::kFloat) != bf16.student_logits)
                        .sum()
                        .item<double>();
  std::vector<Check> checks{limit("logits that are no bf16 value", unrounded, 0)};
  if (trace.optimizer)
    checks.push_back(limit("learning rate", lr_error(trace, bf16), kLearningRate));
  const auto scale = distances(trace, fp32, recording);
  const auto to_recording = distances(trace, bf16, recording);
  const auto to_fp32 = distances(trace, bf16, fp32);
  for (std::size_t i = 0; i < scale.size(); ++i) {
    const double d = scale[i].value;
    const double factor = scale[i].quantity.starts_with("final ") ? after_training : 1.5;
    checks.push_back({scale[i].quantity + ", from recording", to_recording[i].value, 0, factor * d,
                      to_recording[i].where});
    checks.push_back({scale[i].quantity + ", from our fp32", to_fp32[i].value, 0.3 * d, 3 * d,
                      to_fp32[i].where});
  }
  return checks;
}

bool print_checks(std::ostream& out, const std::vector<Check>& checks) {
  bool all = true;
  for (const Check& check : checks) {
    all = all && check.passed();
    std::ostringstream allowed, line;
    allowed << std::setprecision(2);
    if (check.at_least > 0) allowed << check.at_least << " to ";
    if (check.at_most < kInfinity)
      allowed << check.at_most;
    else
      allowed << "any";
    line << (check.passed() ? "  ok    " : "  WRONG ") << std::left << std::setw(42)
         << check.quantity << std::setw(10) << std::setprecision(2) << check.value << "allowed "
         << std::setw(19) << allowed.str() << check.where;
    out << line.str() << "\n";
  }
  return all;
}

}  // namespace fbi::parity
