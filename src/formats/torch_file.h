#pragma once

#include <filesystem>
#include <vector>

#include "fbi/core/file.h"
#include "fbi/formats/tensor_view.h"

namespace fbi::formats {

/// Reads a state dict that `torch.save` wrote (a zip archive with a pickle in it, torch 1.6 or
/// later), without LibTorch: nothing in the file is executed, tensors stay in the mapping. Throws
/// DataError naming file and tensor: anything but a dict from name to tensor, a constructor that
/// such a dict does not need, a tensor that is no contiguous part of its storage, a broken archive.
class TorchFile final : public TensorFile {
 public:
  explicit TorchFile(const std::filesystem::path& path);
  /// In the order of the dict.
  const std::vector<TensorView>& tensors() const override { return tensors_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
};

}  // namespace fbi::formats
