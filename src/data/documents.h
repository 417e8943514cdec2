#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/data/prepare.h"
#include "fbi/text/tokenizer.h"

namespace fbi::data {

/// A document as it stands in the input: a line of JSON, or text.
struct RawDocument {
  std::string_view bytes;
  std::int64_t number = 0;  ///< within its file, from 0: the line of JSON lines, else the document
};

/// Cuts the content of an input file, which comes in pieces, into documents. Line breaks around a
/// text document are taken off, empty text documents and empty lines at the end of JSON lines left
/// out.
class DocumentCutter {
 public:
  DocumentCutter(bool json_lines, std::string separator);
  /// Takes rest() together with what follows it in the file; `last` when nothing does.
  void feed(std::string_view content, bool last);
  /// The next whole document of what it was fed with, whose bytes it refers to.
  bool next(RawDocument& document);
  /// What belongs to a document that is not whole yet, and its number.
  std::string_view rest() const { return rest_; }
  std::int64_t number() const { return number_; }

 private:
  bool next_line(RawDocument& document);
  bool next_text(RawDocument& document);

  std::string_view rest_;
  const char* blank_end_ = nullptr;  // of JSON lines: from here on rest_ is blank
  bool json_lines_;
  std::string separator_;
  std::int64_t number_ = 0;
  bool first_ = true, last_ = false;
};

/// Whether `input` is read as JSON lines.
bool is_json_lines(const PrepareOptions& options, const std::filesystem::path& input);
/// Whether some input is read as text.
bool any_text(const PrepareOptions& options);

/// What is wrong with a document of more than kMaxDocumentBytes, which is never left out: where it
/// ends is not known before all of it is read.
DataError too_large(const std::filesystem::path& input, const PrepareOptions& options,
                    std::int64_t number);

/// The ids that a document of at most kMaxDocumentBytes contributes. Throws DataError naming file
/// and line or document. `tokenizer` may be null for token_ids.
std::vector<std::int32_t> document_ids(const RawDocument& document,
                                       const std::filesystem::path& input,
                                       const PrepareOptions& options,
                                       const text::Tokenizer* tokenizer, std::int64_t vocab_size);

}  // namespace fbi::data
