#pragma once

#include <cstdint>

namespace fbi::distributed {

/// Rows [begin, end) of a matrix.
struct RowRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t rows() const { return end - begin; }
  bool empty() const { return begin == end; }
  bool operator==(const RowRange&) const = default;
};

/// How the rows of one [O, I] matrix lie over `size` ranks: equal blocks of ceil(O / size) rows in
/// rank order. The last blocks may be short or empty; collectives exchange whole blocks, so a
/// gathered buffer holds block_rows() * size() rows. Throws UsageError when rows < 0, size < 1 or,
/// in `range`, the rank does not exist.
class ShardPlan {
 public:
  ShardPlan(std::int64_t rows, int size);
  std::int64_t rows() const { return rows_; }
  int size() const { return size_; }
  /// Rows of every rank's part of a collective.
  std::int64_t block_rows() const { return block_rows_; }
  /// Rows that `rank` owns; together the ranges cover [0, rows) once.
  RowRange range(int rank) const;

 private:
  std::int64_t rows_;
  int size_;
  std::int64_t block_rows_;
};

/// ShardPlan(rows, size).range(rank).
RowRange range(std::int64_t rows, int rank, int size);

}  // namespace fbi::distributed
