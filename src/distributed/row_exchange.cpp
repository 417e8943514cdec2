#include "fbi/distributed/row_exchange.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "fbi/distributed/shard_plan.h"

namespace fbi::distributed {
namespace {

std::int64_t block_elements(const RowExchangePart& part, int size) {
  return ShardPlan(part.whole.size(0), size).block_rows() * part.whole.size(1);
}

std::int64_t total_elements(const std::vector<RowExchangePart>& parts, int size) {
  std::int64_t total = 0;
  for (const auto& part : parts) total += block_elements(part, size);
  return total;
}

/// The rows of `rank` in row `rank` of an exchange buffer [ranks, blocks], from column `offset` on.
at::Tensor rows_in_buffer(const at::Tensor& buffer, std::int64_t offset, const at::Tensor& matrix,
                          int rank, int size) {
  const auto range = ShardPlan(matrix.size(0), size).range(rank);
  return buffer[rank]
      .narrow(0, offset, range.rows() * matrix.size(1))
      .view({range.rows(), matrix.size(1)});
}

at::Tensor rows_of(const at::Tensor& matrix, int rank, int size) {
  const auto range = ShardPlan(matrix.size(0), size).range(rank);
  return matrix.narrow(0, range.begin, range.rows());
}

}  // namespace

RowReduction::RowReduction(Communicator& communicator, std::vector<RowExchangePart> parts,
                           at::ScalarType wire)
    : parts_(std::move(parts)), size_(communicator.size()) {
  const std::int64_t total = total_elements(parts_, size_);
  const auto options = at::TensorOptions().dtype(wire).device(communicator.device());
  sent_ = at::zeros({size_, total}, options);  // rows that pad a block stay 0
  received_ = at::empty({total}, options);
  std::int64_t offset = 0;
  for (const auto& part : parts_) {
    for (int rank = 0; rank < size_; ++rank)
      rows_in_buffer(sent_, offset, part.whole, rank, size_)
          .copy_(rows_of(part.whole, rank, size_));
    offset += block_elements(part, size_);
  }
  work_ = communicator.reduce_scatter(received_, sent_, Payload::kGradients);
}

void RowReduction::finish() {
  work_->wait();
  std::int64_t offset = 0;
  for (const auto& part : parts_) {
    at::Tensor own = part.own;
    own.add_(received_.narrow(0, offset, own.numel()).view(own.sizes()));
    offset += block_elements(part, size_);
  }
}

RowGather::RowGather(Communicator& communicator, std::vector<RowExchangePart> parts,
                     Payload payload)
    : parts_(std::move(parts)), rank_(communicator.rank()), size_(communicator.size()) {
  if (size_ == 1 || parts_.empty()) return;
  // Rows lie in the matrix as in the buffer.
  if (parts_.size() == 1 && parts_[0].whole.size(0) % size_ == 0) {
    work_ = communicator.all_gather(parts_[0].whole, parts_[0].own, payload);
    return;
  }
  const std::int64_t total = total_elements(parts_, size_);
  const auto options = parts_.front().whole.options();
  sent_ = at::zeros({total}, options);  // rows that pad a block
  received_ = at::empty({size_, total}, options);
  std::int64_t offset = 0;
  for (const auto& part : parts_) {
    sent_.narrow(0, offset, part.own.numel()).view(part.own.sizes()).copy_(part.own);
    offset += block_elements(part, size_);
  }
  work_ = communicator.all_gather(received_, sent_, payload);
}

void RowGather::finish() {
  if (!work_) return;
  work_->wait();
  if (!received_.defined()) return;
  std::int64_t offset = 0;
  for (const auto& part : parts_) {
    for (int rank = 0; rank < size_; ++rank) {
      const bool in_place = rank == rank_ && part.own.is_alias_of(part.whole);
      if (!in_place)
        rows_of(part.whole, rank, size_)
            .copy_(rows_in_buffer(received_, offset, part.whole, rank, size_));
    }
    offset += block_elements(part, size_);
  }
}

}  // namespace fbi::distributed
