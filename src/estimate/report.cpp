#include <cstdio>

#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/estimate/estimate.h"

namespace fbi::estimate {
namespace {

constexpr std::array<std::string_view, kMemoryKinds> kKinds = {
    "latent",  "moments",     "bits",       "values",   "gradients",
    "teacher", "activations", "loss_chunk", "workspace"};
constexpr std::array<std::string_view, kMemoryKinds> kDescriptions = {
    "latent weights", "AdamW moments", "sign bits", "full-precision values", "gradients", "teacher",
    "activations",    "loss chunk",    "workspace"};

std::string percent(double part, double whole) {
  char text[32];
  std::snprintf(text, sizeof text, "%.0f %%", whole > 0 ? 100 * part / whole : 0.0);
  return text;
}

std::string flop_text(double flops) {
  const bool large = flops >= 5e7;
  char text[32];
  std::snprintf(text, sizeof text, large ? "%.1f GFLOP" : "%.2f MFLOP",
                flops / (large ? 1e9 : 1e6));
  return text;
}

/// "            label              1.2 GB"
std::string row(std::string_view label, std::int64_t bytes) {
  const std::string value = format_bytes(bytes);
  std::string line = "            " + std::string(label);
  line += std::string(line.size() + value.size() < 46 ? 46 - line.size() - value.size() : 1, ' ');
  return line + value + "\n";
}

}  // namespace

std::string_view to_string(MemoryKind kind) {
  return kKinds[static_cast<std::size_t>(kind)];
}

std::string model_report(const config::ModelConfig& model) {
  const auto size = config::parameter_counts(model);
  return concat("model       ", format_count(size.total()),
                " parameters: ", format_count(size.binarized), " at one bit, ",
                format_count(size.scales), " scales and shifts, ", format_count(size.dense),
                " full precision\n");
}

std::string teacher_report(const std::optional<TeacherPlan>& teacher, const std::string& source) {
  if (!teacher) return "teacher     none (next-token training)\n";
  return concat("teacher     ", source, ", ",
                format_count(config::parameter_counts(teacher->model).total()), " parameters of ",
                teacher->value_bytes,
                teacher->fp8 ? " bytes, of decoder matrices 1\n" : " bytes\n");
}

std::string run_report(const config::RunConfig& config, const Estimate& estimate) {
  return concat("step        ", config.train.global_batch, " samples = ", estimate.world_size,
                " rank(s) x ", estimate.micro_steps, " micro-steps x ", config.train.micro_batch,
                "; ", format_count(estimate.tokens_per_step), " tokens\nrun         ",
                estimate.steps, " steps of a ", to_string(config.optimizer.schedule),
                " schedule of ", config.optimizer.total_steps, ", ",
                format_count(static_cast<std::int64_t>(estimate.tokens())), " tokens\n");
}

std::string memory_report(const Estimate& estimate) {
  const MemoryPhase& peak = estimate.memory.peak();
  std::string out = concat("memory      ", format_bytes(total_bytes(peak.bytes)),
                           " per rank at its peak (", peak.name, ")\n");
  for (std::size_t kind = 0; kind < kMemoryKinds; ++kind)
    if (peak.bytes[kind] > 0) out += row(kDescriptions[kind], peak.bytes[kind]);
  return out;
}

std::string traffic_report(const Estimate& estimate) {
  if (estimate.world_size == 1) return "traffic     none: one rank\n";
  const TrafficEstimate& t = estimate.traffic;
  std::string out = concat("traffic     ", format_bytes(t.total()),
                           " sent per rank and step, as a ring sends it\n",
                           row("gradients, reduce_scatter", t.gradients));
  if (t.bits > 0) out += row("sign bits, all_gather", t.bits);
  out += row("embedding and head, all_gather", t.values);
  out += row("norms and scales, all_reduce", t.scales);
  if (t.teacher > 0) out += row("sharded teacher, all_gather", t.teacher);
  if (t.bits > 0) {
    const auto ratio = [](std::int64_t ours, std::int64_t theirs) {
      return static_cast<std::int64_t>(static_cast<double>(theirs) / static_cast<double>(ours));
    };
    out += concat("            bf16 weights gathered for forward and backward of ",
                  estimate.micro_steps, " micro-steps would be ",
                  ratio(t.bits, t.bf16_gathers_of_linears), " times the bits,\n            ",
                  ratio(t.bits + t.values, t.bf16_gathers), " times bits, embedding and head\n");
  }
  return out;
}

std::string flops_report(const Estimate& estimate) {
  const TokenFlops& f = estimate.flops;
  std::string out =
      concat("arithmetic  ", flop_text(f.total()), " per token: student 6N ", flop_text(f.student));
  if (f.student_fp8 > 0) out += concat(", of which ", flop_text(f.student_fp8), " in fp8");
  if (f.recompute > 0) out += concat(", recompute ", flop_text(f.recompute));
  if (f.teacher > 0)
    out += concat(", teacher 2N ", flop_text(f.teacher), " (", percent(f.teacher, f.total()), ")");
  if (f.teacher_fp8 > 0) out += concat(", of which ", flop_text(f.teacher_fp8), " in fp8");
  return out + "; causal attention included\n";
}

std::string disk_report(const Estimate& estimate) {
  return concat("disk        ", format_bytes(estimate.checkpoint_bytes), " per checkpoint, ",
                format_bytes(estimate.disk_bytes), " for ", estimate.kept_checkpoints,
                " and one being written\n");
}

}  // namespace fbi::estimate
