#include "fbi/train/open_model.h"

#include <optional>

#include "fbi/distributed/agreement.h"

namespace fbi::train {

nn::ModelFolder open_model_together(const std::filesystem::path& path,
                                    distributed::Communicator& communicator) {
  std::optional<nn::ModelFolder> chosen;
  distributed::run_together(communicator, [&] {
    if (communicator.rank() == 0) chosen = nn::open_model_folder(path);
  });
  const std::string folder =
      distributed::all_gather_text(communicator, chosen ? chosen->path.string() : "").front();
  return chosen ? std::move(*chosen) : nn::open_model_folder(folder);
}

}  // namespace fbi::train
