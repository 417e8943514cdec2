#include "fbi/formats/token_shard.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"

namespace fbi::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read through mappings");

constexpr char kMagic[8] = {'F', 'B', 'I', 'T', 'O', 'K', 'E', 'N'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHashDigits = 32;

// The file's first 128 bytes (docs/formats.md).
struct Header {
  char magic[8] = {};
  std::uint32_t version = 0;
  std::uint32_t id_bytes = 0;
  std::uint32_t vocab_size = 0;
  std::uint32_t ids_per_sample = 0;
  std::uint64_t sample_count = 0;
  char tokenizer_hash[kHashDigits] = {};  // zeros when unknown
  char payload_hash[kHashDigits] = {};
  std::uint8_t reserved[24] = {};
  std::uint64_t header_hash = 0;  // XXH3-64 of all bytes before

  std::uint64_t computed_hash() const {
    return hash64({reinterpret_cast<const char*>(this), offsetof(Header, header_hash)});
  }
};
static_assert(sizeof(Header) == 128 && offsetof(Header, header_hash) == 120);

bool is_hash(std::string_view text) {
  return text.size() == kHashDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

int id_bytes_for(std::uint32_t vocab_size) {
  return vocab_size <= 65536 ? 2 : 4;
}

template <class... Args>
[[noreturn]] void fail(const std::filesystem::path& path, const Args&... args) {
  throw DataError(concat(path.string(), ": ", args...));
}

Header read_header(std::span<const std::byte> file, const std::filesystem::path& path) {
  Header header;
  if (file.size() < sizeof header) {
    fail(path, "expected a token shard of at least ", sizeof header, " bytes, found ", file.size(),
         "; fbi-llm prepare makes shards of text");
  }
  std::memcpy(&header, file.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) {
    fail(path,
         "not a token shard (it does not begin with FBITOKEN); make shards of text or JSON lines: "
         "fbi-llm prepare");
  }
  if (header.version != kVersion) {
    fail(path, "expected token shard version ", kVersion, ", found ", header.version);
  }
  if (header.header_hash != header.computed_hash()) fail(path, "the header has been altered");
  return header;
}

// The header's hash only proves that it is unchanged, not that a sane program wrote it.
void check_fields(const Header& header, std::size_t file_bytes, const std::filesystem::path& path) {
  if (header.vocab_size == 0 || header.vocab_size > std::numeric_limits<std::int32_t>::max()) {
    fail(path, "expected a vocabulary from 1 to 2147483647, found ", header.vocab_size);
  }
  if (header.ids_per_sample == 0) fail(path, "expected at least 1 id per sample, found 0");
  const auto id_bytes = static_cast<std::uint32_t>(id_bytes_for(header.vocab_size));
  if (header.id_bytes != id_bytes) {
    fail(path, "expected ", id_bytes, " bytes per id for a vocabulary of ", header.vocab_size,
         ", found ", header.id_bytes);
  }
  const std::uint64_t sample_bytes = std::uint64_t{header.ids_per_sample} * id_bytes;
  const std::uint64_t payload_bytes = file_bytes - sizeof header;
  if (header.sample_count != payload_bytes / sample_bytes || payload_bytes % sample_bytes != 0) {
    fail(path, "expected ", header.sample_count, " samples of ", sample_bytes, " bytes, found ",
         payload_bytes, " bytes: the file was cut short or extended");
  }
}

}  // namespace

TokenShard::TokenShard(const std::filesystem::path& path, bool verify_hash)
    : file_(path), header_bytes_(sizeof(Header)) {
  const Header header = read_header(file_.bytes(), path);
  check_fields(header, file_.bytes().size(), path);
  info_.vocab_size = header.vocab_size;
  info_.ids_per_sample = header.ids_per_sample;
  info_.sample_count = header.sample_count;
  if (header.tokenizer_hash[0] != '\0') {
    info_.tokenizer_hash.assign(header.tokenizer_hash, kHashDigits);
    if (!is_hash(info_.tokenizer_hash)) fail(path, "the tokenizer hash is not hexadecimal");
  }
  id_bytes_ = static_cast<int>(header.id_bytes);
  const std::string expected(header.payload_hash, kHashDigits);
  if (is_hash(expected)) info_.samples_hash = expected;
  if (!verify_hash) return;
  const std::string found = hash128_hex(file_.bytes().subspan(header_bytes_));
  if (found != expected) {
    fail(path, "the samples have been altered: expected XXH3 ",
         is_hash(expected) ? expected : "(none)", ", found ", found);
  }
}

void TokenShard::read(std::uint64_t sample, std::span<std::int32_t> out) const {
  if (sample >= info_.sample_count || out.size() != info_.ids_per_sample) {
    throw UsageError(concat(file_.path().string(), ": expected a sample below ", info_.sample_count,
                            " and room for ", info_.ids_per_sample, " ids, found sample ", sample,
                            " and room for ", out.size()));
  }
  const auto id_bytes = static_cast<std::size_t>(id_bytes_);
  const std::byte* source =
      file_.bytes().data() + header_bytes_ + sample * (info_.ids_per_sample * id_bytes);
  for (std::size_t position = 0; position < out.size(); ++position) {
    std::uint32_t id = 0;  // little-endian: the low bytes come first
    std::memcpy(&id, source + position * id_bytes, id_bytes);
    if (id >= info_.vocab_size) {
      fail(file_.path(), "sample ", sample, ", position ", position, ": expected an id below ",
           info_.vocab_size, ", found ", id);
    }
    out[position] = static_cast<std::int32_t>(id);
  }
}

struct TokenShardWriter::Impl {
  explicit Impl(const std::filesystem::path& p) : path(p), file(p) {}

  void flush() {
    file.write(buffer);
    hasher.update(buffer);
    buffer.clear();
  }

  std::filesystem::path path;
  DurableFile file;
  TokenShardInfo info;
  std::size_t id_bytes = 2;
  Hasher128 hasher;
  std::vector<std::byte> buffer;
};

TokenShardWriter::TokenShardWriter(const std::filesystem::path& path, TokenShardInfo info) {
  if (info.vocab_size == 0 || info.vocab_size > std::numeric_limits<std::int32_t>::max() ||
      info.ids_per_sample == 0) {
    throw UsageError(concat(path.string(),
                            ": expected a vocabulary from 1 to 2147483647 and at least 1 id "
                            "per sample, found ",
                            info.vocab_size, " and ", info.ids_per_sample));
  }
  if (!info.tokenizer_hash.empty() && !is_hash(info.tokenizer_hash)) {
    throw UsageError(concat(path.string(), ": expected a tokenizer hash of ", kHashDigits,
                            " hexadecimal digits, found \"", info.tokenizer_hash, "\""));
  }
  impl_ = std::make_unique<Impl>(path);
  impl_->info = std::move(info);
  impl_->info.sample_count = 0;
  impl_->id_bytes = static_cast<std::size_t>(id_bytes_for(impl_->info.vocab_size));
  const Header unfinished;  // no magic: not mistaken for a shard
  impl_->file.write(std::as_bytes(std::span(&unfinished, 1)));
}

TokenShardWriter::~TokenShardWriter() = default;

void TokenShardWriter::add(std::span<const std::int32_t> ids) {
  constexpr std::size_t kBufferBytes = 1 << 20;
  Impl& impl = *impl_;
  const auto place = [&] {
    return concat(impl.path.string(), ": sample ", impl.info.sample_count);
  };
  if (ids.size() != impl.info.ids_per_sample) {
    throw DataError(
        concat(place(), ": expected ", impl.info.ids_per_sample, " ids, found ", ids.size()));
  }
  for (std::size_t position = 0; position < ids.size(); ++position) {
    if (ids[position] < 0 || static_cast<std::uint32_t>(ids[position]) >= impl.info.vocab_size) {
      throw DataError(concat(place(), ", position ", position, ": expected an id from 0 to ",
                             impl.info.vocab_size - 1, ", found ", ids[position]));
    }
  }
  for (const std::int32_t id : ids) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&id);
    impl.buffer.insert(impl.buffer.end(), bytes, bytes + impl.id_bytes);
  }
  ++impl.info.sample_count;
  if (impl.buffer.size() >= kBufferBytes) impl.flush();
}

TokenShardInfo TokenShardWriter::finish() {
  Impl& impl = *impl_;
  impl.flush();
  Header header;
  std::copy(std::begin(kMagic), std::end(kMagic), header.magic);
  header.version = kVersion;
  header.id_bytes = static_cast<std::uint32_t>(impl.id_bytes);
  header.vocab_size = impl.info.vocab_size;
  header.ids_per_sample = impl.info.ids_per_sample;
  header.sample_count = impl.info.sample_count;
  impl.info.tokenizer_hash.copy(header.tokenizer_hash, kHashDigits);
  impl.info.samples_hash = impl.hasher.hex();
  impl.info.samples_hash.copy(header.payload_hash, kHashDigits);
  header.header_hash = header.computed_hash();
  impl.file.overwrite(0, std::as_bytes(std::span(&header, 1)));
  impl.file.commit();
  return impl.info;
}

}  // namespace fbi::formats
