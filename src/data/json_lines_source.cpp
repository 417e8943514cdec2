#include <algorithm>
#include <chrono>
#include <mutex>

#include "data/line_index.h"
#include "data/mapped_text.h"
#include "data/token_line.h"
#include "fbi/core/error.h"
#include "fbi/data/sample_source.h"

namespace fbi::data {

namespace {

class JsonLinesSource final : public SampleSource {
 public:
  JsonLinesSource(const std::filesystem::path& path, const JsonLinesOptions& options)
      : data_(path), options_(options) {
    const std::string_view text = text_of(data_);
    if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
      throw DataError(concat(path.string(), ": expected JSON lines, found an empty file"));
    }
    std::vector<std::int32_t> ids;
    parse_token_ids(text.substr(0, text.find('\n')), {data_.path(), 0}, options_.vocab_size,
                    options_.bare_arrays, ids);
    count_reason_ = options_.ids_per_sample == 0 ? " as in line 1" : " (train.seq_len + 1)";
    if (options_.ids_per_sample == 0)
      options_.ids_per_sample = static_cast<std::int64_t>(ids.size());
    check_count(ids, 0);
  }

  std::int64_t sample_count() const override { return index().line_count(); }
  std::int64_t ids_per_sample() const override { return options_.ids_per_sample; }

  void read(std::int64_t sample, std::span<std::int32_t> out) const override {
    if (sample < 0 || sample >= sample_count() || std::ssize(out) != ids_per_sample()) {
      throw UsageError(concat(path().string(), ": expected a sample below ", sample_count(),
                              " and room for ", ids_per_sample(), " ids, found sample ", sample,
                              " and room for ", out.size()));
    }
    thread_local std::vector<std::int32_t> ids;
    const std::string_view line = index().line(data_, sample);
    parse_token_ids(line, {data_.path(), sample}, options_.vocab_size, options_.bare_arrays, ids);
    release_pages(data_, line);
    check_count(ids, sample);
    std::copy(ids.begin(), ids.end(), out.begin());
  }

  const std::filesystem::path& path() const override { return data_.path(); }

 private:
  void check_count(const std::vector<std::int32_t>& ids, std::int64_t line) const {
    if (std::ssize(ids) == options_.ids_per_sample && !ids.empty()) return;
    throw DataError(
        concat(path().string(), ", line ", line + 1, ": expected ",
               ids.empty() ? "ids" : concat(options_.ids_per_sample, " ids", count_reason_),
               ", found ", ids.size()));
  }

  const LineIndex& index() const {
    std::call_once(indexed_, [this] {
      const Progress progress = log_progress(std::chrono::seconds(10));
      index_ = options_.store_index
                   ? LineIndex::load_or_build(data_, line_index_path(path(), options_.index_dir),
                                              progress)
                   : LineIndex::build(data_, progress);
    });
    return index_;
  }

  MappedFile data_;
  JsonLinesOptions options_;
  std::string count_reason_;
  mutable std::once_flag indexed_;
  mutable LineIndex index_;
};

}  // namespace

std::unique_ptr<SampleSource> open_json_lines(const std::filesystem::path& path,
                                              const JsonLinesOptions& options) {
  return std::make_unique<JsonLinesSource>(path, options);
}

}  // namespace fbi::data
