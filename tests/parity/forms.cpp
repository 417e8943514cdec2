#include "parity/forms.h"

#include <array>
#include <ostream>

#include "parity/compare.h"
#include "parity/latent_replay.h"

namespace fbi::parity {
namespace {

std::string trainer_declines(const Trace& trace) {
  const std::int64_t zeros = count_zero_latents(trace);
  if (zeros == 0) return "";
  return std::to_string(zeros) + " latent weights are exactly 0, which a sign bit cannot represent";
}

}  // namespace

std::span<const Form> forms() {
  static constexpr std::array<Form, 2> kForms{
      Form{"trainer", replay_trainer, trainer_declines,
           // The recording rounds the gradient of a weight to bf16 in every micro-step, this form
           // sums it in fp32; ten steps amplify the difference. With AVX2 it ends 1.55 D away, and
           // 0.6 D when it is made to round as the recording did (on two ranks 1.5 D all the same).
           2},
      Form{"latent",
           [](const Trace& trace, config::Precision precision, const TrainerOptions&) {
             return replay_latent(trace, precision);
           },
           [](const Trace&) { return std::string(); }, 1.5}};
  return kForms;
}

bool replay_and_judge(const Form& form, const Trace& trace, std::ostream& out,
                      const TrainerOptions& options) {
  const bool bf16 = trace.precision == config::Precision::kBf16;
  out << trace.name << ", form " << form.name << (bf16 ? ", bf16" : ", fp32");
  if (options != TrainerOptions()) out << ", " << to_string(options);
  out << "\n";
  const ReplayResult replay = form.replay(trace, trace.precision, options);
  if (!bf16) return print_checks(out, compare(trace, replay));
  return print_checks(
      out, compare_bf16(trace, replay, form.replay(trace, config::Precision::kFp32, options),
                        form.after_training));
}

}  // namespace fbi::parity
