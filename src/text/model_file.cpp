#include "text/model_file.h"

#include <bit>
#include <cstdint>
#include <functional>

namespace fbi::text {

namespace {

/// One field of a protobuf message: `number` holds varints and fixed-width values, `bytes` strings
/// and messages.
struct Field {
  std::uint32_t id = 0;
  std::uint64_t number = 0;
  std::string_view bytes;
};

bool read_varint(std::string_view& in, std::uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && !in.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(in.front());
    in.remove_prefix(1);
    value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool read_fixed(std::string_view& in, std::size_t width, std::uint64_t& value) {
  if (in.size() < width) return false;
  value = 0;
  for (std::size_t k = 0; k < width; ++k) {
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(in[k])) << (8 * k);
  }
  in.remove_prefix(width);
  return true;
}

/// Calls `visit` for each field in the order of the message; false when it is malformed or `visit`
/// returns false.
bool for_each_field(std::string_view message, const std::function<bool(const Field&)>& visit) {
  enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  while (!message.empty()) {
    std::uint64_t tag = 0;
    if (!read_varint(message, tag)) return false;
    Field field;
    field.id = static_cast<std::uint32_t>(tag >> 3);
    bool ok = false;
    switch (tag & 7) {
      case kVarint:
        ok = read_varint(message, field.number);
        break;
      case kFixed64:
        ok = read_fixed(message, 8, field.number);
        break;
      case kFixed32:
        ok = read_fixed(message, 4, field.number);
        break;
      case kBytes:
        ok = read_varint(message, field.number) && field.number <= message.size();
        if (ok) {
          field.bytes = message.substr(0, field.number);
          message.remove_prefix(field.number);
        }
        break;
      default:
        break;
    }
    if (!ok || !visit(field)) return false;
  }
  return true;
}

bool parse_piece(std::string_view message, ModelFile& model) {
  ModelFile::Piece piece;
  const bool ok = for_each_field(message, [&piece](const Field& field) {
    if (field.id == 1) piece.text = field.bytes;
    if (field.id == 2) piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field.number));
    if (field.id == 3) piece.type = static_cast<PieceType>(field.number);
    return field.id != 3 || (field.number >= 1 && field.number <= 6);
  });
  if (ok) model.pieces.push_back(std::move(piece));
  return ok;
}

bool parse_trainer(std::string_view message, ModelFile& model) {
  return for_each_field(message, [&model](const Field& field) {
    switch (field.id) {
      case 3:
        model.algorithm = static_cast<ModelFile::Algorithm>(field.number);
        break;
      case 24:
        model.whitespace_as_suffix = field.number != 0;
        break;
      case 35:
        model.byte_fallback = field.number != 0;
        break;
      case 44:
        model.unk_surface = field.bytes;
        break;
      default:
        break;
    }
    return true;
  });
}

bool parse_normalizer(std::string_view message, ModelFile& model) {
  return for_each_field(message, [&model](const Field& field) {
    switch (field.id) {
      case 2:
        model.has_character_map = !field.bytes.empty();
        break;
      case 3:
        model.add_dummy_prefix = field.number != 0;
        break;
      case 4:
        model.remove_extra_whitespaces = field.number != 0;
        break;
      case 5:
        model.escape_whitespaces = field.number != 0;
        break;
      default:
        break;
    }
    return true;
  });
}

}  // namespace

std::optional<ModelFile> parse_model_file(std::string_view bytes) {
  ModelFile model;
  const bool ok = for_each_field(bytes, [&model](const Field& field) {
    switch (field.id) {
      case 1:
        return parse_piece(field.bytes, model);
      case 2:
        return parse_trainer(field.bytes, model);
      case 3:
        return parse_normalizer(field.bytes, model);
      default:
        return true;
    }
  });
  if (!ok || model.pieces.empty()) return std::nullopt;
  return model;
}

}  // namespace fbi::text
