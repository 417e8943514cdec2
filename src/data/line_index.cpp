#include "data/line_index.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "data/mapped_text.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/log.h"
#include "fbi/core/system.h"

namespace fbi::data {

namespace {

static_assert(std::endian::native == std::endian::little, "index files are read through mappings");

constexpr std::size_t kHashDigits = 32;

/// The index file: this header, then line_count + 1 offsets of 64 bits.
struct Header {
  char magic[8] = {'F', 'B', 'I', 'L', 'I', 'N', 'E', 'S'};
  std::uint64_t version = 1;
  std::uint64_t data_bytes = 0;
  std::int64_t data_time = 0;
  char data_hash[kHashDigits] = {};  // of the first and the last 64 KiB
  std::uint64_t line_count = 0;
  char offsets_hash[kHashDigits] = {};
};
static_assert(sizeof(Header) == 104);

/// What the index of this data, in its present state, must say.
Header key_of(const MappedFile& data) {
  Header header;
  header.data_bytes = data.bytes().size();
  // A file that is gone by now has a time of its own, which no index carries.
  std::error_code ignored;
  header.data_time =
      std::filesystem::last_write_time(data.path(), ignored).time_since_epoch().count();
  hash128_of_ends_hex(data.bytes()).copy(header.data_hash, kHashDigits);
  return header;
}

}  // namespace

LineIndex LineIndex::build(const MappedFile& data, const Progress& progress) {
  constexpr std::size_t kStep = 64 << 20;
  const std::string_view text = text_of(data);
  const std::size_t last = text.find_last_not_of(" \t\r\n");
  const std::size_t end = last == std::string_view::npos ? 0 : last + 1;
  const std::string what = "indexing " + data.path().string();
  LineIndex index;
  if (end > 0) index.built_.push_back(0);
  std::size_t reported = 0;
  for (std::size_t at = text.find('\n'); at < end; at = text.find('\n', at + 1)) {
    index.built_.push_back(at + 1);
    if (at - reported < kStep) continue;
    release_pages(data, text.substr(reported, at - reported));
    reported = at;
    progress(what, at, text.size());
  }
  index.built_.push_back(end);
  release_pages(data, text.substr(reported));
  progress(what, text.size(), text.size());
  return index;
}

std::optional<LineIndex> LineIndex::load(const MappedFile& data,
                                         const std::filesystem::path& index_file) {
  if (!std::filesystem::exists(index_file)) return std::nullopt;
  const auto unusable = [&index_file](const std::string& why) {
    log::info("building ", index_file.string(), " again: ", why);
    return std::nullopt;
  };
  LineIndex index;
  try {
    index.mapped_.emplace(index_file);
  } catch (const DataError& error) {
    return unusable(error.what());
  }
  const auto bytes = index.mapped_->bytes();
  Header header;
  if (bytes.size() < sizeof header) return unusable("it is damaged");
  std::memcpy(&header, bytes.data(), sizeof header);
  Header expected = key_of(data);
  expected.line_count = header.line_count;
  std::memcpy(expected.offsets_hash, header.offsets_hash, kHashDigits);
  if (std::memcmp(&header, &expected, sizeof header) != 0)
    return unusable("the data has changed since");
  const auto payload = bytes.subspan(sizeof header);
  if (payload.size() % 8 != 0 || header.line_count != payload.size() / 8 - 1 ||
      hash128_hex(payload) != std::string_view(header.offsets_hash, kHashDigits)) {
    return unusable("it is damaged");
  }
  const auto offsets = index.offsets();
  if (!std::is_sorted(offsets.begin(), offsets.end()) || offsets.back() > data.bytes().size()) {
    return unusable("it is damaged");
  }
  return index;
}

void LineIndex::store(const MappedFile& data, const std::filesystem::path& index_file) const {
  const auto payload = std::as_bytes(offsets());
  Header header = key_of(data);
  header.line_count = static_cast<std::uint64_t>(line_count());
  hash128_hex(payload).copy(header.offsets_hash, kHashDigits);
  try {
    if (index_file.has_parent_path()) std::filesystem::create_directories(index_file.parent_path());
    DurableFile file(index_file);
    file.write(std::as_bytes(std::span(&header, 1)));
    file.write(payload);
    file.commit();
  } catch (const std::exception& error) {
    log::warn("the line index of ", data.path().string(), " could not be kept (", error.what(),
              "); every start will build it again unless data.index_dir names a folder that can be "
              "written");
  }
}

namespace {

/// Held by the one process that builds an index, so that the other ranks of a run wait for it
/// instead of reading the same gigabytes. Without locks, or a folder to write to, each builds, as
/// do those that have waited for long: a file server may keep the lock of a machine that is gone.
class BuildLock {
 public:
  explicit BuildLock(const std::filesystem::path& index_file) : path_(index_file) {
    path_ += ".lock";
    std::error_code ignored;
    if (path_.has_parent_path()) std::filesystem::create_directories(path_.parent_path(), ignored);
    descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) wait(index_file);
  }
  ~BuildLock() {
    if (descriptor_ < 0) return;
    unlink(path_.c_str());  // who waits for it finds the index
    close(descriptor_);
  }
  BuildLock(const BuildLock&) = delete;
  BuildLock& operator=(const BuildLock&) = delete;

 private:
  void wait(const std::filesystem::path& index_file) const {
    constexpr std::chrono::milliseconds kLook(50), kLongest(std::chrono::minutes(5));
    for (std::chrono::milliseconds waited(0); waited < kLongest; waited += kLook) {
      if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
      if (waited == kLook * 20)
        log::info("waiting for ", index_file.string(), ", which another process builds");
      std::this_thread::sleep_for(kLook);
    }
    log::warn(path_.string(), " is held by a process that does not come to an end; building ",
              index_file.string(), " here");
  }

  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace

LineIndex LineIndex::load_or_build(const MappedFile& data, const std::filesystem::path& index_file,
                                   const Progress& progress) {
  if (auto stored = load(data, index_file)) return std::move(*stored);
  const BuildLock lock(index_file);
  if (auto stored = load(data, index_file)) return std::move(*stored);
  LineIndex index = build(data, progress);
  index.store(data, index_file);
  return index;
}

std::span<const std::uint64_t> LineIndex::offsets() const {
  if (!mapped_) return built_;
  const auto payload = mapped_->bytes().subspan(sizeof(Header));
  return {reinterpret_cast<const std::uint64_t*>(payload.data()), payload.size() / 8};
}

std::string_view LineIndex::line(const MappedFile& data, std::int64_t line) const {
  const auto all = offsets();
  return text_of(data).substr(all[line], all[line + 1] - all[line]);
}

Progress log_progress(std::chrono::milliseconds interval) {
  using Clock = std::chrono::steady_clock;
  return [interval, said = Clock::now()](std::string_view what, std::uint64_t done,
                                         std::uint64_t total) mutable {
    if (Clock::now() - said < interval) return;
    said = Clock::now();
    log::info(what, ": ", 100 * done / std::max<std::uint64_t>(total, 1), " %");
  };
}

std::filesystem::path line_index_path(const std::filesystem::path& data,
                                      const std::filesystem::path& index_dir) {
  const std::string name = data.filename().string();
  if (index_dir.empty()) return data.parent_path() / (name + ".lines");
  char hash[17];
  std::snprintf(hash, sizeof hash, "%016llx",
                static_cast<unsigned long long>(hash64(std::filesystem::absolute(data).string())));
  return index_dir / (name + "." + hash + ".lines");
}

}  // namespace fbi::data
