#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fbi {

/// XXH3, 64 bits: keys of names and seeds.
std::uint64_t hash64(std::string_view text, std::uint64_t seed = 0);
/// XXH3, 128 bits, as 32 lower-case hexadecimal digits: integrity of files and tensors.
std::string hash128_hex(std::span<const std::byte> bytes);
/// The same of the first and the last 64 KiB alone: tells what is too large to be read apart.
std::string hash128_of_ends_hex(std::span<const std::byte> bytes);

/// Streaming form of hash128_hex.
class Hasher128 {
 public:
  Hasher128();
  ~Hasher128();
  void update(std::span<const std::byte> bytes);
  std::string hex() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbi
