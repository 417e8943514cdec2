#include "infer/cpu_forward.h"

#include <algorithm>
#include <utility>

#include "infer/bandwidth.h"

namespace fbi::infer {
namespace {

constexpr int kTablesAtOnce = 3;  // q, k and v share an input, each has its own alpha

KeyValueCache& cache_of(const TokenRow& row) {
  return static_cast<KeyValueCache&>(*row.cache);  // made by new_cache
}

}  // namespace

CpuForward::CpuForward(std::unique_ptr<ModelParts> parts, const PackedOptions& options, Team& team)
    : weights_(std::move(parts), options, team.pool()),
      model_(weights_.config()),
      team_(team),
      cache_type_(options.cache),
      rotary_(model_),
      head_width_(kernels::padded_head(model_.head_dim)),
      hidden_width_(weights_.head().padded_columns()),
      scores_(static_cast<std::size_t>(team.size())) {
  facts_.head = weights_.head().storage();
  facts_.head_bytes = weights_.head().weight_bytes();
  for (const LayerWeights& layer : weights_.layers()) {
    for (const auto* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      facts_.sign_bytes += linear->weight_bytes();
    }
  }
  place_scratch();
}

std::unique_ptr<SequenceCache> CpuForward::new_cache() {
  return std::make_unique<KeyValueCache>(model_, cache_type_);
}

double CpuForward::read_bandwidth(std::uint64_t bytes) {
  return infer::read_bandwidth(bytes, team_.pool());
}

void CpuForward::place_scratch() {
  const std::int64_t queries = model_.num_attention_heads * model_.head_dim;
  const std::int64_t keys = model_.num_key_value_heads * model_.head_dim;
  struct Part {
    float** place;
    std::int64_t row;
  };
  const Part parts[] = {{&residual_, model_.hidden_size},
                        {&hidden_, hidden_width_},
                        {&queries_, queries},
                        {&keys_, keys},
                        {&values_, keys},
                        {&rotated_, model_.num_attention_heads * head_width_},
                        {&mixed_, queries},
                        {&gate_, model_.intermediate_size},
                        {&up_, model_.intermediate_size},
                        {&product_, model_.hidden_size},
                        {&angles_, rotary_.table_size()}};
  constexpr std::int64_t kLine = 16;  // floats
  const auto size = [](std::int64_t row) { return (row * kMaxRows + kLine - 1) / kLine * kLine; };
  std::int64_t floats = 0;
  for (const Part& part : parts) floats += size(part.row);
  memory_ = kernels::AlignedMemory(static_cast<std::size_t>(floats) * sizeof(float));
  float* next = memory_.as<float>();
  for (const Part& part : parts) {
    *part.place = next;
    next += size(part.row);
  }
  std::size_t largest = 0;
  for (const LayerWeights& layer : weights_.layers()) {
    for (const auto* linear : {&layer.q, &layer.o, &layer.down}) {
      largest = std::max(largest, linear->table_bytes());
    }
  }
  table_stride_ = static_cast<std::int64_t>(largest) * kMaxRows;
  tables_ = kernels::AlignedMemory(static_cast<std::size_t>(table_stride_ * kTablesAtOnce));
}

void CpuForward::run(std::span<const TokenRow> rows) {
  rows_ = rows;
  std::int64_t positions = 0;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    weights_.embed(rows[t].id, {residual_ + static_cast<std::int64_t>(t) * model_.hidden_size,
                                static_cast<std::size_t>(model_.hidden_size)});
    rotary_.angles(rows[t].position, angles_ + static_cast<std::int64_t>(t) * rotary_.table_size());
    positions = std::max(positions, rows[t].position + 1);
  }
  const std::size_t needed = static_cast<std::size_t>(positions) * sizeof(float);
  for (kernels::AlignedMemory& scores : scores_) {
    if (scores.size() < needed) scores = kernels::AlignedMemory(2 * needed);
  }
  team_.run([&](const Member& member) {
    for (std::int64_t index = 0; index < model_.num_hidden_layers; ++index) layer(member, index);
    norm(member, weights_.final_norm());
  });
}

void CpuForward::logits(std::int64_t first, std::int64_t count, float* out) {
  team_.run([&](const Member& member) {
    const auto [begin, end] = member.share(model_.vocab_size);
    weights_.head().multiply(begin, end, hidden_ + first * hidden_width_, hidden_width_, count, out,
                             model_.vocab_size);
  });
}

CpuForward::Item CpuForward::item(const kernels::BinaryLinear& linear, float* out, int table) {
  return {&linear, out, linear.shape().rows, tables_.data() + table * table_stride_};
}

/// Every phase ends where all members meet: the next one reads what others wrote.
void CpuForward::layer(const Member& member, std::int64_t index) {
  const LayerWeights& weights = weights_.layers()[index];
  norm(member, weights.input_norm);
  attention(member, index);

  norm(member, weights.post_attention_norm);
  const Item gate = item(weights.gate, gate_, 0), up = item(weights.up, up_, 1);
  prepare(member, gate, hidden_, hidden_width_);
  prepare(member, up, hidden_, hidden_width_);
  member.meet();
  const auto count = std::ssize(rows_);
  const auto [begin, end] = member.share(weights.gate.row_blocks());
  weights.gate.multiply(begin, end, gate.tables, count, gate_, gate.stride);
  weights.up.multiply(begin, end, up.tables, count, up_, up.stride);
  const std::int64_t first = begin * weights.gate.block_rows();
  const std::int64_t last = std::min(end * weights.gate.block_rows(), gate.stride);
  for (std::int64_t t = 0; t < count && first < last; ++t) {
    const std::int64_t at = t * gate.stride + first;
    kernels::silu_product(gate_ + at, up_ + at, last - first);
  }
  member.meet();
  const Item down = item(weights.down, product_, 0);
  prepare(member, down, gate_, model_.intermediate_size);
  member.meet();
  add_to_residual(member, down);
}

void CpuForward::attention(const Member& member, std::int64_t index) {
  const LayerWeights& weights = weights_.layers()[index];
  const Item items[kTablesAtOnce] = {item(weights.q, queries_, 0), item(weights.k, keys_, 1),
                                     item(weights.v, values_, 2)};
  std::int64_t blocks = 0;
  for (const Item& item : items) {
    prepare(member, item, hidden_, hidden_width_);
    blocks += item.linear->row_blocks();
  }
  member.meet();
  auto [begin, end] = member.share(blocks);  // of q, k and v in a row
  for (const Item& item : items) {
    const std::int64_t own = item.linear->row_blocks();
    item.linear->multiply(std::clamp<std::int64_t>(begin, 0, own),
                          std::clamp<std::int64_t>(end, 0, own), item.tables, std::ssize(rows_),
                          item.out, item.stride);
    begin -= own;
    end -= own;
  }
  member.meet();
  store_keys_and_values(member, index);
  member.meet();
  attend(member, index);
  member.meet();
  const Item output = item(weights.o, product_, 0);
  prepare(member, output, mixed_, weights.o.shape().columns);
  member.meet();
  add_to_residual(member, output);
}

void CpuForward::store_keys_and_values(const Member& member, std::int64_t index) {
  const std::int64_t heads = model_.num_key_value_heads, width = model_.head_dim;
  const auto count = std::ssize(rows_);
  const auto [begin, end] = member.share(count * heads);
  for (std::int64_t n = begin; n < end; ++n) {
    const std::int64_t t = n / heads, head = n % heads;
    const TokenRow& row = rows_[t];
    float* key = keys_ + n * width;
    rotary_.rotate(key, angles_ + t * rotary_.table_size(), key);
    kernels::store_cache(key, width, cache_type_, cache_of(row).key(index, head, row.position));
    kernels::store_cache(values_ + n * width, width, cache_type_,
                         cache_of(row).value(index, head, row.position));
  }
}

void CpuForward::attend(const Member& member, std::int64_t index) {
  const std::int64_t heads = model_.num_attention_heads, width = model_.head_dim;
  const std::int64_t group = heads / model_.num_key_value_heads;
  const auto count = std::ssize(rows_);
  // By heads first: a member's keys and values then serve all its rows.
  const auto [begin, end] = member.share(count * heads);
  for (std::int64_t n = begin; n < end; ++n) {
    const std::int64_t head = n / count, t = n % count;
    const TokenRow& row = rows_[t];
    float* query = rotated_ + (t * heads + head) * head_width_;
    rotary_.rotate(queries_ + (t * heads + head) * width, angles_ + t * rotary_.table_size(),
                   query);
    // The query is not needed after its scores, so the result may take its place.
    kernels::attend({query, cache_of(row).key(index, head / group, 0),
                     cache_of(row).value(index, head / group, 0), cache_type_, row.position + 1,
                     width, scores_[member.rank].as<float>(), query});
    std::copy_n(query, width, mixed_ + (t * heads + head) * width);
    std::fill_n(query + width, head_width_ - width, 0.0f);
  }
}

void CpuForward::norm(const Member& member, const std::vector<float>& weight) {
  const std::int64_t width = model_.hidden_size;
  const auto [begin, end] = member.share(std::ssize(rows_));
  for (std::int64_t t = begin; t < end; ++t) {
    kernels::rms_norm(residual_ + t * width, weight.data(), width, model_.rms_norm_eps,
                      hidden_ + t * hidden_width_);
  }
  member.meet();
}

void CpuForward::prepare(const Member& member, const Item& item, const float* x,
                         std::int64_t x_stride) {
  const auto [begin, end] = member.share(item.linear->table_parts());
  for (std::int64_t t = 0; t < std::ssize(rows_); ++t) {
    item.linear->prepare(x + t * x_stride, begin, end,
                         item.tables + t * static_cast<std::int64_t>(item.linear->table_bytes()));
  }
}

/// residual += the product, whose rows this member alone computes and adds.
void CpuForward::add_to_residual(const Member& member, const Item& item) {
  const auto count = std::ssize(rows_);
  const auto [begin, end] = member.share(item.linear->row_blocks());
  item.linear->multiply(begin, end, item.tables, count, item.out, item.stride);
  const std::int64_t block = item.linear->block_rows();
  const std::int64_t last = std::min(end * block, item.stride);
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t o = begin * block; o < last; ++o) {
      residual_[t * item.stride + o] += item.out[t * item.stride + o];
    }
  }
  member.meet();
}

}  // namespace fbi::infer
