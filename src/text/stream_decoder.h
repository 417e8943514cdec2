#pragma once

#include <memory>

#include "text/model_file.h"

namespace fbi::text {

/// Decodes as SentencePiece's own Decode does. `model` must outlive the result.
std::unique_ptr<StreamDecoder> make_stream_decoder(const ModelFile& model);

}  // namespace fbi::text
