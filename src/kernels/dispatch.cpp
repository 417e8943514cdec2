#include "fbi/kernels/dispatch.h"

#include <array>
#include <atomic>
#include <cstdlib>

#include "fbi/core/error.h"
#include "kernels/cpu/levels.h"
#include "kernels/dispatch.h"

namespace fbi::kernels {
namespace {

struct TableRow {
  Level level;
  const CpuKernels* kernels;
  std::string_view needs;
  std::string (*declined)();
};

std::string never() {
  return {};
}

/// Best first.
constexpr std::array kTable = {
    TableRow{Level::kAvx512, &kAvx512Kernels, kAvx512Features, avx512_declined},
    TableRow{Level::kAvx2, &kAvx2Kernels, kAvx2Features, avx2_declined},
    TableRow{Level::kNeon, &kNeonKernels, kNeonFeatures, neon_declined},
    // Products with signs have a faster form without any instruction set (gemv_kernels.h), the rest
    // none.
    TableRow{Level::kPortable, &kRefKernels, "nothing", never},
    TableRow{Level::kRef, &kRefKernels, "nothing", never},
};

std::atomic<const TableRow*> chosen = nullptr;

/// "avx512 (declined: processor lacks avx512bw), avx2, ref"
std::string choices() {
  std::string text;
  for (const TableRow& row : kTable) {
    if (!text.empty()) text += ", ";
    text += level_name(row.level);
    if (const std::string why = row.declined(); !why.empty())
      text += concat(" (declined: ", why, ")");
  }
  return text;
}

/// `origin` says in the message where the name comes from.
const TableRow& find(std::string_view name, std::string_view origin) {
  for (const TableRow& row : kTable) {
    if (level_name(row.level) != name) continue;
    if (const std::string why = row.declined(); !why.empty()) {
      throw UsageError(concat(origin, name, " can't run here: ", why, "; choices: ", choices()));
    }
    return row;
  }
  throw UsageError(concat(origin, name, " is unknown; choices: ", choices()));
}

const TableRow& resolve() {
  const char* wanted = std::getenv("FBI_KERNEL");
  if (wanted && *wanted) return find(wanted, "FBI_KERNEL=");
  for (const TableRow& row : kTable) {
    if (row.declined().empty()) return row;
  }
  return kTable.back();
}

const TableRow& chosen_row() {
  const TableRow* row = chosen.load(std::memory_order_acquire);
  if (!row) {
    row = &resolve();
    chosen.store(row, std::memory_order_release);
  }
  return *row;
}

}  // namespace

std::string_view level_name(Level level) {
  switch (level) {
    case Level::kAvx512:
      return "avx512";
    case Level::kAvx2:
      return "avx2";
    case Level::kNeon:
      return "neon";
    case Level::kPortable:
      return "portable";
    case Level::kRef:
      break;
  }
  return "ref";
}

std::vector<DispatchRow> dispatch_rows() {
  std::vector<DispatchRow> rows;
  for (const TableRow& row : kTable) {
    rows.push_back({row.level, std::string(row.needs), row.declined()});
  }
  return rows;
}

Level chosen_level() {
  return chosen_row().level;
}

void force_level(std::optional<Level> level) {
  chosen.store(level ? &find(level_name(*level), "kernel level ") : nullptr,
               std::memory_order_release);
}

const CpuKernels& cpu_kernels() {
  return *chosen_row().kernels;
}

}  // namespace fbi::kernels
