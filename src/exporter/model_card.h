#pragma once

#include <string>

#include "fbi/config/run_config.h"
#include "fbi/exporter/export.h"

namespace fbi::exporter {

enum class ExportKind { kNative, kFolded, kPacked, kGguf, kGgufBits };

/// The card's own, or the name of the report's directory.
std::string title_of(const ModelCard& card, const ExportReport& report);

/// The README.md of an export, for people who meet the folder without us.
std::string model_card_text(const config::ModelConfig& model, ExportKind kind,
                            const Folding& folding, const ExportOptions& options,
                            const ExportReport& report);

}  // namespace fbi::exporter
