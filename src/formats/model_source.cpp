#include "fbi/formats/model_source.h"

#include <algorithm>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"

namespace fbi::formats {
namespace {

/// Over TensorFolder or CheckpointReader, which look alike.
template <class Tensors>
class TensorSource : public ModelSource {
 public:
  explicit TensorSource(std::unique_ptr<Tensors> tensors) : tensors_(std::move(tensors)) {}
  std::string description() const override { return tensors_->path().string(); }
  std::vector<std::string> names() const override { return tensors_->names(); }
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const override {
    const TensorView* view = tensors_->find(name);
    if (!view) return std::nullopt;
    return view->shape;
  }
  void read(const std::string& name, std::span<float> out) const override {
    to_float(tensors_->at(name), out);
  }

 private:
  std::unique_ptr<Tensors> tensors_;
};

class CheckpointSource final : public TensorSource<CheckpointReader> {
 public:
  using TensorSource::TensorSource;
  std::vector<std::string> names() const override {
    auto all = TensorSource::names();
    std::erase_if(all, [](const std::string& name) { return name.starts_with("optimizer."); });
    return all;
  }
};

}  // namespace

std::unique_ptr<ModelSource> folder_source(const std::filesystem::path& directory) {
  return std::make_unique<TensorSource<TensorFolder>>(
      std::make_unique<TensorFolder>(directory));
}

std::unique_ptr<ModelSource> checkpoint_source(std::unique_ptr<CheckpointReader> reader) {
  return std::make_unique<CheckpointSource>(std::move(reader));
}

}  // namespace fbi::formats
