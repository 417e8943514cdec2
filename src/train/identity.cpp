#include "train/identity.h"

#include <algorithm>
#include <cmath>

#include "fbi/config/compare.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/ops/sign_products.h"
#include "fbi/optim/schedule.h"

namespace fbi::train {
namespace {

/// What the fields that people trip over are best set to.
std::string remedy(const config::FieldDifference& difference,
                   const config::OptimizerConfig& saved) {
  if (difference.key == "data.paths" || difference.key == "teacher.path")
    return concat("\n    (--allow-change ", difference.key, " goes on with what is there now)");
  if (difference.key != "optimizer.total_steps") return {};
  return concat("\n    (the rate's schedule was made for ", difference.saved,
                " steps: --set optimizer.total_steps=", difference.saved,
                " trains on at its last rate; --allow-change optimizer.total_steps moves its ",
                saved.schedule == config::ScheduleKind::kWsd
                    ? concat("decay, without a leap of the rate up to the checkpoint of step ",
                             saved.total_steps - saved.decay_steps)
                    : "end",
                ")");
}

/// Where the changes take the learning rate further at once than its own schedules would in two
/// steps; else empty.
std::string leap_text(const config::RunConfig& saved, const config::RunConfig& current,
                      std::int64_t step) {
  if (step == 0) return {};
  const optim::Schedule old_one = optim::make_schedule(saved.optimizer);
  const optim::Schedule new_one = optim::make_schedule(current.optimizer);
  const auto change = [&](const optim::Schedule& last, const optim::Schedule& next) {
    return std::abs(next.at_step(step) - last.at_step(step - 1));
  };
  if (change(old_one, new_one) <= 2 * std::max(change(old_one, old_one), change(new_one, new_one)))
    return {};
  return concat("\nWith this the learning rate leaps after step ", step, " from ",
                old_one.at_step(step - 1), " to ", new_one.at_step(step), ".");
}

/// `step`: that the run goes on from.
void require_none(const std::vector<config::FieldDifference>& differences,
                  const config::RunConfig& saved, const config::RunConfig& current,
                  std::int64_t step, const std::vector<std::string>& allowed) {
  std::string refused, changed;
  for (const auto& difference : differences) {
    if (std::ranges::find(allowed, difference.key) != allowed.end())
      changed += concat("\n  ", difference.key, ": ", difference.saved, " before, ",
                        difference.current, " now");
    else
      refused += concat("\n  ", difference.key, ": the run has ", difference.saved, ", now ",
                        difference.current, remedy(difference, saved.optimizer));
  }
  const std::string leap = leap_text(saved, current, step);
  if (!refused.empty())
    throw UsageError(
        concat("the configuration differs from that of the run to be continued:", refused, leap,
               "\nUse the run's own values, another --run-dir, or --allow-change KEY for a change "
               "that is meant."));
  if (!changed.empty()) log::warn("the run goes on with what was changed:", changed, leap);
}

}  // namespace

void check_identity(const config::RunConfig& saved, const config::RunConfig& current,
                    std::int64_t step, const std::vector<std::string>& allowed) {
  require_none(config::identity_differences(saved, current), saved, current, step, allowed);
}

Inputs check_inputs(const formats::CheckpointReader* checkpoint,
                    const std::optional<config::RunConfig>& saved, const config::RunConfig& current,
                    const std::vector<std::string>& allowed) {
  const auto recorded = checkpoint ? checkpoint_inputs(*checkpoint) : std::nullopt;
  Inputs inputs = read_inputs(current, recorded);
  if (!saved) return inputs;
  auto differences = config::identity_differences(*saved, current);
  if (recorded) compare_inputs(*recorded, inputs, differences);
  require_none(differences, *saved, current, checkpoint ? checkpoint->manifest().step : 0, allowed);
  return inputs;
}

void check_branch(const formats::CheckpointReader& origin, const config::TrainConfig& train) {
  if (origin.manifest().step >= train.steps)
    throw UsageError(concat("train.steps=", train.steps,
                            " leaves nothing to train: the branch is "
                            "to begin at step ",
                            origin.manifest().step, " (", origin.path().string(),
                            "); raise train.steps or begin from an earlier checkpoint"));
}

void keep_sign_products(config::RunConfig& config, RunOptions& options,
                        const std::optional<config::RunConfig>& saved, at::Device device) {
  std::string& products = config.train.sign_products;
  const auto dtype =
      config.train.precision == config::Precision::kFp32 ? at::kFloat : at::kBFloat16;
  if (products != "auto") return ops::check_sign_products(products, device, dtype);
  const auto chosen = ops::choose_sign_products(products, device, dtype, config.model.hidden_size);
  products = chosen == ops::SignProducts::kDense ? "dense" : "tables";
  if (!saved) return;
  if (saved->train.sign_products == "tables" && !device.is_cpu())
    options.allow_change.push_back("train.sign_products");
  else
    products = saved->train.sign_products;
  const bool allowed = std::ranges::count(options.allow_change, "train.precision") > 0;
  if (saved->train.precision != config.train.precision && !allowed) return;  // refused elsewhere
  try {
    ops::check_sign_products(products, device, dtype);
  } catch (const UsageError& error) {
    throw UsageError(concat("the run to be continued has train.sign_products=", products, ": ",
                            error.what(),
                            "; to go on with dense products, --set train.sign_products=dense "
                            "--allow-change train.sign_products"));
  }
}

}  // namespace fbi::train
