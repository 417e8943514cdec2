#include "optim/row_exchange.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

namespace fbi::optim {
namespace {

using distributed::ShardPlan;

std::int64_t block_elements(const RowExchangePart& part, int size) {
  return ShardPlan(part.whole.size(0), size).block_rows() * part.whole.size(1);
}

std::int64_t total_elements(const std::vector<RowExchangePart>& parts, int size) {
  std::int64_t total = 0;
  for (const auto& part : parts) total += block_elements(part, size);
  return total;
}

/// The rows of `rank` in row `rank` of an exchange buffer [ranks, blocks], from column `offset` on.
at::Tensor rows_in_buffer(const at::Tensor& buffer, std::int64_t offset, const at::Tensor& matrix, int rank, int size) {
  const auto range = ShardPlan(matrix.size(0), size).range(rank);
  return buffer[rank].narrow(0, offset, range.rows() * matrix.size(1)).view({range.rows(), matrix.size(1)});
}

at::Tensor rows_of(const at::Tensor& matrix, int rank, int size) {
  const auto range = ShardPlan(matrix.size(0), size).range(rank);
  return matrix.narrow(0, range.begin, range.rows());
}

}  // namespace

RowReduction::RowReduction(distributed::Communicator& communicator, std::vector<RowExchangePart> parts, at::ScalarType wire)
    : parts_(std::move(parts)), size_(communicator.size()) {
  const std::int64_t total = total_elements(parts_, size_);
  const auto options = at::TensorOptions().dtype(wire).device(communicator.device());
  sent_ = at::zeros({size_, total}, options);  // rows that pad a block stay 0
  received_ = at::empty({total}, options);
  std::int64_t offset = 0;
  for (const auto& part : parts_) {
    for (int rank = 0; rank < size_; ++rank)
      rows_in_buffer(sent_, offset, part.whole, rank, size_).copy_(rows_of(part.whole, rank, size_));
    offset += block_elements(part, size_);
  }
  work_ = communicator.reduce_scatter(received_, sent_, distributed::Payload::kGradients);
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

void gather_rows(distributed::Communicator& communicator, const std::vector<RowExchangePart>& parts,
                 distributed::Payload payload) {
  const int size = communicator.size();
  if (size == 1 || parts.empty()) return;
  if (parts.size() == 1 && parts[0].whole.size(0) % size == 0) {  // rows lie in the matrix as in the buffer
    at::Tensor whole = parts[0].whole;
    communicator.all_gather(whole, parts[0].own, payload)->wait();
    return;
  }
  const std::int64_t total = total_elements(parts, size);
  const auto options = parts.front().whole.options();
  at::Tensor sent = at::zeros({total}, options), received = at::empty({size, total}, options);
  std::int64_t offset = 0;
  for (const auto& part : parts) {
    sent.narrow(0, offset, part.own.numel()).view(part.own.sizes()).copy_(part.own);
    offset += block_elements(part, size);
  }
  communicator.all_gather(received, sent, payload)->wait();
  offset = 0;
  for (const auto& part : parts) {
    for (int rank = 0; rank < size; ++rank)
      if (rank != communicator.rank())
        rows_of(part.whole, rank, size).copy_(rows_in_buffer(received, offset, part.whole, rank, size));
    offset += block_elements(part, size);
  }
}

}  // namespace fbi::optim
