#include "train/environment.h"

#include <ATen/Parallel.h>
#include <torch/headeronly/version.h>

#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>

#include "fbi/config/model_size.h"
#include "fbi/core/system.h"
#include "fbi/core/version.h"
#include "fbi/data/training_data.h"
#include "fbi/kernels/dispatch.h"
#include "fbi/nn/model_folder.h"
#include "fbi/text/tokenizer.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace

std::string environment_json(const config::RunConfig& config, const std::string& command_line,
                             at::Device device, const std::map<std::string, double>& matrix_rates) {
  nlohmann::ordered_json out = {
      {"program", version()},
      {"libtorch", TORCH_VERSION},
      {"compiler", __VERSION__},
      {"allocator", allocator_name()},
      {"kernels", kernels::level_name(kernels::chosen_level())},
      {"device", device.str()},
      {"threads", at::get_num_threads()},
      {"parameters", config::parameter_counts(config.model).total()},
      {"host", host_name()},
      {"pid", process_id()},
      {"started", utc_now()},
      {"command_line", command_line},
  };
  if (!matrix_rates.empty()) out["matrix_flops_per_second"] = matrix_rates;
  // A command line may hold any bytes.
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void copy_tokenizer(const config::RunConfig& config, const data::TrainingData& data,
                    const fs::path& run_directory) {
  if (!text::find_tokenizer(run_directory).empty()) return;
  auto source = data::find_tokenizer(config.data);
  // Shards say which tokenizer they were prepared with; JSON lines are taken for the teacher's.
  if (!source && config.objective.distill > 0 && data.tokenizer_hash().empty())
    source = nn::find_tokenizer(config.teacher.path);
  if (source && !source->empty()) text::copy_tokenizer(*source, run_directory);
}

}  // namespace fbi::train
