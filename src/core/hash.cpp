#include "fbi/core/hash.h"

#include <xxhash.h>

#include <algorithm>
#include <new>

namespace fbi {
namespace {

// The canonical (big-endian) form, as `xxhsum -H2` prints it.
std::string to_hex(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

std::uint64_t hash64(std::string_view text, std::uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

std::string hash128_hex(std::span<const std::byte> bytes) {
  return to_hex(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string hash128_of_ends_hex(std::span<const std::byte> bytes) {
  constexpr std::size_t kEnd = 64 << 10;
  Hasher128 hasher;
  hasher.update(bytes.first(std::min(kEnd, bytes.size())));
  hasher.update(bytes.last(std::min(kEnd, bytes.size())));
  return hasher.hex();
}

struct Hasher128::Impl {
  Impl() : state(XXH3_createState()) {
    if (!state) throw std::bad_alloc();
    XXH3_128bits_reset(state);
  }
  ~Impl() { XXH3_freeState(state); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  XXH3_state_t* state;
};

Hasher128::Hasher128() : impl_(std::make_unique<Impl>()) {}
Hasher128::~Hasher128() = default;

void Hasher128::update(std::span<const std::byte> bytes) {
  if (!bytes.empty()) XXH3_128bits_update(impl_->state, bytes.data(), bytes.size());
}

std::string Hasher128::hex() const {
  return to_hex(XXH3_128bits_digest(impl_->state));
}

}  // namespace fbi
