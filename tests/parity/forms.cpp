#include "parity/forms.h"

#include <array>
#include <ostream>

#include "parity/compare.h"
#include "parity/latent_replay.h"

namespace fbi::parity {

std::span<const Form> forms() {
  static constexpr std::array<Form, 1> kForms{
      Form{"latent", replay_latent, [](const Trace&) { return std::string(); }}};
  return kForms;
}

bool replay_and_judge(const Form& form, const Trace& trace, std::ostream& out) {
  const bool bf16 = trace.precision == config::Precision::kBf16;
  out << trace.name << ", form " << form.name << (bf16 ? ", bf16" : ", fp32") << "\n";
  const ReplayResult replay = form.replay(trace, trace.precision);
  if (!bf16) return print_checks(out, compare(trace, replay));
  return print_checks(out,
                      compare_bf16(trace, replay, form.replay(trace, config::Precision::kFp32)));
}

}  // namespace fbi::parity
