#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "fbi/data/prepare.h"
#include "fbi/text/tokenizer.h"

namespace fbi::data {

inline constexpr const char* kDatasetFile = "dataset.json";

/// `dataset.json`: what was asked for (`options`, `inputs`, `tokenizer`; two preparations are the
/// same when these are equal), and what came out (`train`, `valid`).
nlohmann::json dataset_identity(const PrepareOptions& options, const PrepareResult& facts,
                                const text::Tokenizer* tokenizer, const Progress& progress);
std::string dataset_to_json(const nlohmann::json& identity, const PrepareResult& result);

/// The result of the preparation that `folder` holds when it is the one of `identity` and its
/// shards are there. Throws UsageError when the folder holds anything else, naming what differs;
/// DataError when shards are missing or broken.
PrepareResult read_prepared(const std::filesystem::path& folder, const nlohmann::json& identity);

}  // namespace fbi::data
