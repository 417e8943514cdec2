#include "fbi/formats/model_source.h"

#include <algorithm>
#include <set>
#include <utility>

#include "fbi/config/model_tensors.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/formats/safetensors.h"
#include "fbi/formats/sharded_tensors.h"

namespace fbi::formats {
namespace {

class FolderSource final : public ModelSource {
 public:
  explicit FolderSource(const std::filesystem::path& directory) : tensors_(directory) {}
  std::string description() const override { return tensors_.path().string(); }
  std::vector<std::string> names() const override { return tensors_.names(); }
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const override {
    const TensorView* view = tensors_.find(name);
    if (!view) return std::nullopt;
    return view->shape;
  }
  void read(const std::string& name, std::span<float> out) const override {
    to_float(tensors_.at(name), out);
  }

 private:
  TensorFolder tensors_;
};

class CheckpointSource final : public ModelSource {
 public:
  explicit CheckpointSource(std::unique_ptr<CheckpointReader> reader)
      : reader_(std::move(reader)), tensors_(*reader_) {}
  std::string description() const override { return reader_->path().string(); }
  std::vector<std::string> names() const override {
    auto all = tensors_.names();
    std::erase_if(all, [](const std::string& name) { return name.starts_with("optimizer."); });
    return all;
  }
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const override {
    const ShardedTensor* tensor = tensors_.find(name);
    if (!tensor) return std::nullopt;
    return tensor->shape;
  }
  void read(const std::string& name, std::span<float> out) const override {
    tensors_.at(name).to_float(out);
  }

 private:
  std::unique_ptr<CheckpointReader> reader_;
  ShardedTensors tensors_;
};

/// A line for each; a wrong num_hidden_layers makes thousands.
std::string lines_of(const std::vector<std::string>& problems) {
  constexpr std::size_t kShown = 20;
  std::string text;
  for (std::size_t i = 0; i < std::min(problems.size(), kShown); ++i)
    text += concat("\n  ", problems[i]);
  if (problems.size() > kShown) text += concat("\n  and ", problems.size() - kShown, " more");
  return text;
}

}  // namespace

std::unique_ptr<ModelSource> folder_source(const std::filesystem::path& directory) {
  return std::make_unique<FolderSource>(directory);
}

std::unique_ptr<ModelSource> checkpoint_source(std::unique_ptr<CheckpointReader> reader) {
  return std::make_unique<CheckpointSource>(std::move(reader));
}

void check_tensors(const ModelSource& source, const config::ModelConfig& model, Scales scales) {
  const std::vector<std::string> names = source.names();
  const bool scaled =
      scales == Scales::kRequired || std::ranges::any_of(names, [](const std::string& name) {
        return name.ends_with(config::kScale);
      });
  std::set<std::string> expected;
  std::vector<std::string> unfit, unused;
  for (const config::TensorSpec& tensor : config::model_tensors(model)) {
    if (!scaled && !tensor.is_weight()) continue;
    expected.insert(tensor.name);
    const auto found = source.shape(tensor.name);
    if (!found) {
      unfit.push_back(concat("missing: ", tensor.name, " ", shape_text(tensor.shape)));
    } else if (*found != tensor.shape) {
      unfit.push_back(concat(tensor.name, ": expected ", shape_text(tensor.shape), ", found ",
                             shape_text(*found)));
    }
  }
  for (const std::string& name : names) {
    if (!expected.contains(name) && !config::is_passed_over(name, model.tie_word_embeddings))
      unused.push_back(concat("not used by this architecture: ", name));
  }
  if (unfit.empty() && unused.empty()) return;
  throw DataError(concat("tensors in ", source.description(),
                         " do not fit the model:", lines_of(unfit), lines_of(unused),
                         "\nCheck the model's config.json (sizes, num_hidden_layers, "
                         "tie_word_embeddings, binarize, shift)."));
}

std::string content_hash(const std::filesystem::path& directory) {
  std::string content;
  if (const auto manifest = directory / "manifest.json"; std::filesystem::exists(manifest)) {
    for (const FileChecksum& shard : manifest_from_file(manifest).shards)
      content += concat(shard.file, ' ', shard.xxh3_128, '\n');
  } else {
    const TensorFolder tensors(directory);
    for (const std::string& name : tensors.names()) {
      const TensorView& tensor = tensors.at(name);
      content += concat(name, ' ', to_string(tensor.dtype), ' ', shape_text(tensor.shape), ' ',
                        hash128_of_ends_hex(tensor.bytes), '\n');
    }
  }
  return hash128_hex(std::as_bytes(std::span(content.data(), content.size())));
}

}  // namespace fbi::formats
