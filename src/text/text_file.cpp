#include "fbi/text/text_file.h"

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <new>
#include <span>
#include <stdexcept>

#include "fbi/core/error.h"

namespace fbi::text {

class Unpacker {
 public:
  virtual ~Unpacker() = default;
  /// Takes bytes off the front of `packed` and writes to the front of `plain`, until one of them is
  /// used up; returns how many it wrote. Throws std::runtime_error (what is wrong).
  virtual std::size_t unpack(std::string_view& packed, std::span<char> plain) = 0;
  /// Whether a file may end here.
  virtual bool is_complete() const = 0;
};

namespace {

constexpr std::size_t kBufferBytes = 256 << 10;
constexpr std::string_view kGzip = "\x1f\x8b", kZstd = "\x28\xb5\x2f\xfd";
constexpr std::string_view kZstdSkipped = "\x2a\x4d\x18";  // behind 0x50 to 0x5f

class Plain final : public Unpacker {
 public:
  std::size_t unpack(std::string_view& packed, std::span<char> plain) override {
    const std::size_t count = packed.copy(plain.data(), plain.size());
    packed.remove_prefix(count);
    return count;
  }
  bool is_complete() const override { return true; }
};

class Gzip final : public Unpacker {
 public:
  Gzip() {
    constexpr int kLargestWindow = 15, kWithGzipHeader = 16;
    if (inflateInit2(&stream_, kLargestWindow + kWithGzipHeader) != Z_OK) throw std::bad_alloc();
  }
  ~Gzip() override { inflateEnd(&stream_); }
  std::size_t unpack(std::string_view& packed, std::span<char> plain) override {
    if (complete_) {  // another member follows, or zeros that fill a block, which gzip skips, too
      packed.remove_prefix(std::min(packed.find_first_not_of('\0'), packed.size()));
      if (packed.empty()) return 0;
      inflateReset(&stream_);
    }
    complete_ = false;
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream_.avail_in = static_cast<uInt>(packed.size());
    stream_.next_out = reinterpret_cast<Bytef*>(plain.data());
    stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(plain.size(), 1u << 30));
    const auto room = stream_.avail_out;
    const int status = inflate(&stream_, Z_NO_FLUSH);
    packed.remove_prefix(packed.size() - stream_.avail_in);
    complete_ = status == Z_STREAM_END;
    if (status == Z_MEM_ERROR) throw std::bad_alloc();
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
      throw std::runtime_error(stream_.msg ? stream_.msg : "a dictionary is missing");
    return room - stream_.avail_out;
  }
  bool is_complete() const override { return complete_; }

 private:
  z_stream stream_ = {};
  bool complete_ = false;
};

class Zstd final : public Unpacker {
 public:
  Zstd() : stream_(ZSTD_createDStream()) {
    if (!stream_) throw std::bad_alloc();
    // What `zstd --long=31` made needs it.
    ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax,
                           ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound);
  }
  std::size_t unpack(std::string_view& packed, std::span<char> plain) override {
    ZSTD_inBuffer in = {packed.data(), packed.size(), 0};
    ZSTD_outBuffer out = {plain.data(), plain.size(), 0};
    const std::size_t status = ZSTD_decompressStream(stream_.get(), &out, &in);
    packed.remove_prefix(in.pos);
    if (ZSTD_getErrorCode(status) == ZSTD_error_memory_allocation) throw std::bad_alloc();
    if (ZSTD_isError(status)) throw std::runtime_error(ZSTD_getErrorName(status));
    complete_ = status == 0;
    return out.pos;
  }
  bool is_complete() const override { return complete_; }

 private:
  struct Free {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };
  std::unique_ptr<ZSTD_DStream, Free> stream_;
  bool complete_ = false;
};

/// A frame, or one to be skipped, with which files of pzstd begin.
bool is_zstd(std::string_view beginning) {
  const bool skipped = beginning.size() >= kZstdSkipped.size() + 1 &&
                       (beginning[0] & 0xF0) == 0x50 &&
                       beginning.substr(1).starts_with(kZstdSkipped);
  return skipped || beginning.starts_with(kZstd);
}

std::unique_ptr<Unpacker> unpacker_for(std::string_view beginning) {
  if (beginning.starts_with(kGzip)) return std::make_unique<Gzip>();
  if (is_zstd(beginning)) return std::make_unique<Zstd>();
  return std::make_unique<Plain>();
}

}  // namespace

TextFile::TextFile(const std::filesystem::path& path)
    : file_(path), size_(file_.size()), buffer_(kBufferBytes) {
  refill();
  unpacker_ = unpacker_for(packed_);
}

TextFile::~TextFile() = default;

void TextFile::refill() {
  const std::size_t count = file_.read(std::as_writable_bytes(std::span(buffer_)));
  packed_ = {buffer_.data(), count};
  position_ += count;
}

bool TextFile::append(std::string& text, std::size_t bytes) {
  const std::size_t old = text.size();
  text.resize(old + bytes);
  std::span<char> room = std::span(text).subspan(old);
  bool more = true;
  while (!room.empty() && more) {
    if (packed_.empty()) refill();
    // At the end of the file an unpacker may still hold plain bytes.
    const bool ended = packed_.empty();
    std::size_t count = 0;
    try {
      count = unpacker_->is_complete() && ended ? 0 : unpacker_->unpack(packed_, room);
    } catch (const std::runtime_error& error) {
      throw DataError(concat(file_.path().string(), " is broken near byte ",
                             position_ - packed_.size(), " (", error.what(),
                             "); get or make it again"));
    }
    room = room.subspan(count);
    more = !ended || count > 0;
  }
  if (!more && !unpacker_->is_complete())
    throw DataError(
        concat(file_.path().string(), " ends in the middle, after ", position_,
               " bytes: it was cut off, or is still being written; get or make it again"));
  text.resize(text.size() - room.size());
  return more;
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  constexpr std::size_t kStep = 1 << 20;
  TextFile file(path);
  std::string text;
  for (bool more = true; more;) {
    more = file.append(text, kStep);
    if (text.size() > max_bytes)
      throw DataError(concat("cannot read ", path.string(), ": expected a text of at most ",
                             max_bytes, " bytes, found more"));
  }
  return text;
}

std::string beginning_of_text_file(const std::filesystem::path& path) {
  if (InputFile(path).is_pipe())
    throw UsageError(concat(path.string(),
                            " is a pipe, and input is read twice, first to tell what it is; make a "
                            "file of it, which gzip or zstd may pack"));
  std::string text;
  TextFile(path).append(text, kBeginningBytes);
  return text;
}

std::filesystem::path unpacked_name(const std::filesystem::path& path) {
  const auto extension = path.extension();
  return extension == ".gz" || extension == ".zst" ? path.stem() : path.filename();
}

}  // namespace fbi::text
