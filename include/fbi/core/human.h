#pragma once

#include <cstdint>
#include <string>
#include <string_view>

/// Numbers for people: log lines, messages, tables. Never parse them back.
namespace fbi {

std::string format_bytes(std::int64_t bytes);  ///< decimal units: "1.4 GB", "512 B"
std::string format_count(std::int64_t count);  ///< "130.2M", "6.7B", "999"
/// "3h12m", "2d04h", "5m07s", "12.3s"; "?" when negative or not finite.
std::string format_duration(double seconds);
/// "12.3K tokens/s"; "?" when negative or not finite.
std::string format_rate(double per_second, std::string_view unit);

}  // namespace fbi
