#include "fbi/config/tensor_names.h"

#include "fbi/core/error.h"

namespace fbi::config {
namespace {

std::string sibling(std::string_view weight, std::string_view suffix) {
  return concat(weight.substr(0, weight.rfind('.')), suffix);
}

}  // namespace

std::string layer_prefix(std::int64_t layer) {
  return concat("model.layers.", layer, ".");
}

std::string sign_bits_name(std::string_view weight) {
  return sibling(weight, kSignBits);
}
std::string scale_name(std::string_view weight) {
  return sibling(weight, kScale);
}
std::string shift_name(std::string_view weight) {
  return sibling(weight, kShift);
}

bool is_passed_over(std::string_view name, bool tied_head) {
  return (tied_head && name == kHead) || name.ends_with("rotary_emb.inv_freq");
}

}  // namespace fbi::config
