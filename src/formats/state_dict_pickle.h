#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/formats/tensor_view.h"

namespace fbi::formats {

/// A tensor as `torch.save` describes it: a view of a storage, which lies in a zip entry of its
/// own. Nothing is checked against that entry yet. Texts are parts of the pickle.
struct PickledTensor {
  std::string_view name;
  DType dtype = DType::kF32;
  std::string_view storage;  ///< key of the entry
  std::int64_t offset = 0;   ///< elements before the first one
  std::vector<std::int64_t> shape, strides;
};

/// Reads the pickle of a state dict, a dict from name to tensor, in the order of the dict. A pickle
/// is a program; here only the few constructors are known that such a dict needs (OrderedDict,
/// torch's tensors, parameters and typed storages), none of them runs code, and every other one is
/// refused by its name. DataError, beginning with `place`.
std::vector<PickledTensor> read_state_dict_pickle(std::span<const std::byte> pickle,
                                                  const std::string& place);

}  // namespace fbi::formats
