#pragma once

#include <memory>
#include <string_view>

#include "text/model_file.h"

namespace fbi::text {

/// "<0x0A>" gives 10.
char byte_of_piece(std::string_view piece);

/// Decodes as SentencePiece's own Decode does. `model` must outlive the result.
std::unique_ptr<StreamDecoder> make_stream_decoder(const ModelFile& model);

}  // namespace fbi::text
