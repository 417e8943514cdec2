// Runs a fuzz target without a fuzzer: PROGRAM RUNS PATH... replays every file at the paths
// (folders: those in them), then RUNS inputs mutated from these, the same ones every time. A crash,
// a hang and an error of the wrong type end it; so does a target that refuses every file, which
// would be looked at no further. For a long search, compile the target with clang's
// -fsanitize=fuzzer,address instead of this file.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "fuzz/accepted.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

namespace fs = std::filesystem;
using Random = std::mt19937_64;

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

std::vector<std::string> read_corpus(const std::vector<fs::path>& paths) {
  std::vector<fs::path> files;
  for (const fs::path& path : paths) {
    if (fs::is_directory(path)) {
      for (const auto& entry : fs::directory_iterator(path)) files.push_back(entry.path());
    } else {
      files.push_back(path);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<std::string> corpus;
  for (const fs::path& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "cannot read %s\n", file.c_str());
      std::exit(2);
    }
    corpus.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  return corpus;
}

/// Evenly enough; the standard's distributions differ between libraries.
std::size_t below(Random& random, std::size_t limit) {
  return limit == 0 ? 0 : random() % limit;
}

void overwrite(std::string& text, Random& random) {
  constexpr std::uint64_t kNumbers[] = {0,          1,          0x7f,       0x80,
                                        0xff,       0xffff,     0x7fffffff, 0x80000000,
                                        0xffffffff, 1ull << 40, ~0ull >> 1, ~0ull};
  const std::uint64_t number = kNumbers[below(random, std::size(kNumbers))];
  const std::size_t bytes = std::size_t{1} << below(random, 4);
  const std::size_t at = below(random, text.size());
  for (std::size_t i = 0; i < bytes && at + i < text.size(); ++i) {
    text[at + i] = static_cast<char>(number >> 8 * i);
  }
}

void mutate(std::string& text, const std::string& other, Random& random) {
  const std::size_t at = below(random, text.size() + 1);
  const std::size_t length = 1 + below(random, 16);
  switch (below(random, 6)) {
    case 0:
      if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << below(random, 8));
      break;
    case 1:
      if (at < text.size()) text[at] = static_cast<char>(random());
      break;
    case 2:
      overwrite(text, random);
      break;
    case 3:
      text.erase(at, length);
      break;
    case 4:
      text.insert(at, text.substr(below(random, text.size() + 1), length));
      break;
    default:
      text.insert(at, other.substr(below(random, other.size() + 1), length));
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s RUNS PATH...\n", words[0]);
    return 2;
  }
  const std::vector<std::string> corpus = read_corpus({words + 2, words + count});
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: no files at the paths\n", words[0]);
    return 2;
  }
  for (const std::string& input : corpus) run(input);
  const auto sound = static_cast<unsigned long long>(fbi::fuzz::accepted);
  if (sound == 0) {
    std::fprintf(stderr, "%s: all %zu files were refused\n", words[0], corpus.size());
    return 1;
  }
  Random random(1);
  const long runs = std::atol(words[1]);
  for (long i = 0; i < runs; ++i) {
    std::string input = corpus[below(random, corpus.size())];
    const std::string& other = corpus[below(random, corpus.size())];
    for (std::size_t n = 1 + below(random, 6); n > 0; --n) mutate(input, other, random);
    run(input);
  }
  std::printf("%zu files and %ld mutations, of which %llu and %llu were accepted\n", corpus.size(),
              runs, sound, static_cast<unsigned long long>(fbi::fuzz::accepted) - sound);
}
