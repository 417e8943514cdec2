#pragma once

#include <optional>

#include <c10/core/ScalarType.h>

#include "fbi/formats/safetensors.h"

namespace fbi::checkpoint {

/// nullopt for types that the file format lacks.
std::optional<formats::DType> to_file_dtype(at::ScalarType type);
at::ScalarType from_file_dtype(formats::DType dtype);

}  // namespace fbi::checkpoint
