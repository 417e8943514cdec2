#include "infer/cpu_forward.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "infer/bandwidth.h"

namespace fbi::infer {
namespace {

constexpr int kTablesAtOnce = 3;  // q, k and v share an input, each has its own alpha

/// Members of a team, and tokens of a step, of which each member makes norms and tables for itself,
/// at most. That is work done several times, but to meet and fetch what another core has made takes
/// longer when it is little.
constexpr int kOwnMakers = 4;
constexpr std::int64_t kOwnRows = 2;

/// States that go without a screen of the head after it was of no use.
constexpr std::int64_t kPause = 64;

KeyValueCache& cache_of(const TokenRow& row) {
  return static_cast<KeyValueCache&>(*row.cache);  // made by new_cache
}

}  // namespace

/// A product in pieces that members take: tokens that are multiplied together by blocks of rows
/// that are, or, where there are too few of these to be shared evenly, one piece for each member.
class CpuForward::Pieces {
 public:
  Pieces(const kernels::BinaryLinear& linear, int members, std::int64_t tokens)
      : linear_(linear), tokens_(tokens) {
    const std::int64_t blocks = linear.row_blocks(), group = linear.blocks_at_once(tokens);
    const std::int64_t times = (tokens + linear.tokens_at_once() - 1) / linear.tokens_at_once();
    constexpr int kEach = 4;
    const bool whole_groups = blocks * times >= kEach * members * group;
    size_ = whole_groups ? group : std::min(blocks, (blocks * times + members - 1) / members);
    row_pieces_ = (blocks + size_ - 1) / size_;
    count = row_pieces_ * times;
  }
  Member::Range blocks(std::int64_t piece) const {
    const std::int64_t first = piece % row_pieces_ * size_;
    return {first, std::min(first + size_, linear_.row_blocks())};
  }
  Member::Range rows(std::int64_t piece) const {
    const auto [begin, end] = blocks(piece);
    return {begin * linear_.block_rows(),
            std::min(end * linear_.block_rows(), linear_.shape().rows)};
  }
  Member::Range tokens(std::int64_t piece) const {
    const std::int64_t first = piece / row_pieces_ * linear_.tokens_at_once();
    return {first, std::min(first + linear_.tokens_at_once(), tokens_)};
  }

  std::int64_t count;

 private:
  const kernels::BinaryLinear& linear_;
  std::int64_t tokens_, size_, row_pieces_;
};

CpuForward::CpuForward(std::unique_ptr<ModelParts> parts, const PackedOptions& options, Team& team)
    : weights_(std::move(parts), options, team.pool()),
      model_(weights_.config()),
      team_(team),
      cache_type_(options.cache),
      rotary_(model_),
      head_width_(kernels::padded_head(model_.head_dim)),
      hidden_width_(weights_.head().padded_columns()),
      makers_(team.size() <= kOwnMakers ? team.size() : 1),
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

std::unique_ptr<SequenceCache> CpuForward::new_cache(std::int64_t most) {
  return std::make_unique<KeyValueCache>(model_, cache_type_, most);
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
                        {&hidden_, makers_ * hidden_width_},
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
  table_bytes_ = static_cast<std::int64_t>(largest);
  const std::int64_t rows = kMaxRows + (makers_ > 1 ? makers_ * kOwnRows : 0);
  tables_ = kernels::AlignedMemory(static_cast<std::size_t>(kTablesAtOnce * rows * table_bytes_));
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
  const auto needed =
      static_cast<std::size_t>(kernels::attend_scratch(std::ssize(rows), positions)) *
      sizeof(float);
  for (kernels::AlignedMemory& scores : scores_) {
    if (scores.size() < needed) scores = kernels::AlignedMemory(2 * needed);
  }
  team_.run([&](const Member& member) {
    for (std::int64_t index = 0; index < model_.num_hidden_layers; ++index) layer(member, index);
    norm(maker(member), weights_.final_norm());
  });
}

void CpuForward::logits(std::int64_t first, std::int64_t count, float* out) {
  team_.run([&](const Member& member) {
    constexpr std::int64_t kPiece = 256;
    member.take((model_.vocab_size + kPiece - 1) / kPiece, [&](std::int64_t piece) {
      const std::int64_t begin = piece * kPiece;
      weights_.head().multiply(begin, std::min(begin + kPiece, model_.vocab_size),
                               hidden_ + first * hidden_width_, hidden_width_, count, out,
                               model_.vocab_size);
    });
  });
}

void CpuForward::logits_to_draw(std::int64_t first, std::span<const eval::Drawable> drawable,
                                float* out) {
  const std::int64_t states = std::ssize(drawable);
  drawn_ += states;
  const HeadScreen* screen = weights_.head_screen();
  const auto suits = [screen](const eval::Drawable& wanted) { return screen->suits(wanted); };
  if (!screen || states > kScreenedStates || unscreened_ > 0 ||
      !std::ranges::all_of(drawable, suits)) {
    unscreened_ = std::max<std::int64_t>(0, unscreened_ - states);
    drawn_bytes_ += static_cast<std::int64_t>(facts_.head_bytes);
    return logits(first, states, out);
  }
  screened_logits(hidden_ + first * hidden_width_, drawable, out);
  drawn_bytes_ += static_cast<std::int64_t>(screen->bytes());
  for (std::int64_t t = 0; t < states; ++t) {
    if (searches_[t].found) {
      drawn_bytes_ += std::ssize(searches_[t].candidates) * weights_.head().row_stride_bytes();
    } else {
      logits(first + t, 1, out + t * model_.vocab_size);
      drawn_bytes_ += static_cast<std::int64_t>(facts_.head_bytes);
      unscreened_ = kPause;
    }
  }
}

/// Leaves searches_, and for those of them that have found their candidates the logits.
void CpuForward::screened_logits(const float* x, std::span<const eval::Drawable> drawable,
                                 float* out) {
  const HeadScreen& screen = *weights_.head_screen();
  const kernels::DenseLinear& head = weights_.head();
  const std::int64_t states = std::ssize(drawable), vocab = model_.vocab_size;
  for (std::int64_t t = 0; t < states; ++t) {
    screen.begin(x + t * hidden_width_, drawable[t], searches_[t]);
  }
  team_.run([&](const Member& member) {
    member.take(screen.pieces(), [&](std::int64_t piece) {
      const std::int64_t begin = piece * HeadScreen::kPiece;
      const std::int64_t end = std::min(begin + HeadScreen::kPiece, vocab);
      for (std::int64_t t = 0; t < states; ++t) {
        screen.estimate(piece, searches_[t]);
        std::fill(out + t * vocab + begin, out + t * vocab + end,
                  -std::numeric_limits<float>::infinity());
      }
    });
    member.meet();
    for (std::int64_t t = member.rank; t < states; t += member.size) screen.find(searches_[t]);
    member.meet();
    for (std::int64_t t = 0; t < states; ++t) {
      const auto [begin, end] = member.share(std::ssize(searches_[t].candidates));
      for (std::int64_t k = begin; k < end; ++k) {
        const std::int64_t id = searches_[t].candidates[static_cast<std::size_t>(k)];
        head.multiply(id, id + 1, x + t * hidden_width_, 0, 1, out + t * vocab, 0);
      }
    }
  });
}

double CpuForward::head_bytes_to_draw() const {
  return drawn_ == 0 ? static_cast<double>(facts_.head_bytes)
                     : static_cast<double>(drawn_bytes_) / static_cast<double>(drawn_);
}

CpuForward::Maker CpuForward::maker(const Member& member) {
  if (makers_ == 1 || std::ssize(rows_) > kOwnRows)
    return {member, hidden_, tables_.data(), Forward::kMaxRows};
  const std::int64_t rows_before = Forward::kMaxRows + member.rank * kOwnRows;
  return {Member{}, hidden_ + member.rank * Forward::kMaxRows * hidden_width_,
          tables_.data() + kTablesAtOnce * rows_before * table_bytes_, kOwnRows};
}

CpuForward::Item CpuForward::item(const Maker& maker, const kernels::BinaryLinear& linear,
                                  float* out, int table) const {
  return {&linear, out, linear.shape().rows, maker.tables + table * maker.rows * table_bytes_};
}

/// Every phase ends where all who take part meet: the next one reads what others wrote.
void CpuForward::layer(const Member& member, std::int64_t index) {
  const LayerWeights& weights = weights_.layers()[index];
  const Maker maker = this->maker(member);
  norm(maker, weights.input_norm);
  attention(member, index);

  norm(maker, weights.post_attention_norm);
  const Item gate = item(maker, weights.gate, gate_, 0), up = item(maker, weights.up, up_, 1);
  prepare(maker, gate, maker.hidden, hidden_width_);
  prepare(maker, up, maker.hidden, hidden_width_);
  maker.member.meet();
  const Pieces pieces(weights.gate, member.size, std::ssize(rows_));
  member.take(pieces.count, [&](std::int64_t piece) {
    multiply(gate, pieces, piece);
    multiply(up, pieces, piece);
    const auto [first, last] = pieces.rows(piece);
    const auto [token, tokens_end] = pieces.tokens(piece);
    for (std::int64_t t = token; t < tokens_end; ++t) {
      const std::int64_t at = t * gate.stride + first;
      kernels::silu_product(gate_ + at, up_ + at, last - first);
    }
  });
  member.meet();
  const Item down = item(maker, weights.down, product_, 0);
  prepare(maker, down, gate_, model_.intermediate_size);
  maker.member.meet();
  add_to_residual(member, down);
}

void CpuForward::attention(const Member& member, std::int64_t index) {
  const LayerWeights& weights = weights_.layers()[index];
  const Maker maker = this->maker(member);
  const Item items[kTablesAtOnce] = {item(maker, weights.q, queries_, 0),
                                     item(maker, weights.k, keys_, 1),
                                     item(maker, weights.v, values_, 2)};
  std::int64_t count = 0;
  for (const Item& item : items) {
    prepare(maker, item, maker.hidden, hidden_width_);
    count += Pieces(*item.linear, member.size, std::ssize(rows_)).count;
  }
  maker.member.meet();
  member.take(count, [&](std::int64_t piece) {  // of q, k and v in a row
    for (const Item& item : items) {
      const Pieces pieces(*item.linear, member.size, std::ssize(rows_));
      if (piece < pieces.count) return multiply(item, pieces, piece);
      piece -= pieces.count;
    }
  });
  member.meet();
  store_keys_and_values(member, index);
  member.meet();
  attend(member, index);
  member.meet();
  const Item output = item(maker, weights.o, product_, 0);
  prepare(maker, output, mixed_, weights.o.shape().columns);
  maker.member.meet();
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
  // By heads first: a member's keys and values then serve all its rows, several at once.
  const auto [begin, end] = member.share(count * heads);
  for (std::int64_t n = begin, together; n < end; n += together) {
    const std::int64_t head = n / count, t = n % count;
    together = following_rows(t, std::min(end - n, count - t));
    const auto place = [&](std::int64_t k) {
      return rotated_ + (head * Forward::kMaxRows + t + k) * head_width_;
    };
    for (std::int64_t k = 0; k < together; ++k) {
      rotary_.rotate(queries_ + ((t + k) * heads + head) * width,
                     angles_ + (t + k) * rotary_.table_size(), place(k));
    }
    kernels::attend({.query = place(0),
                     .query_stride = head_width_,
                     .keys = cache_of(rows_[t]).key(index, head / group, 0),
                     .values = cache_of(rows_[t]).value(index, head / group, 0),
                     .type = cache_type_,
                     .queries = together,
                     .positions = rows_[t].position + 1,
                     .head_dim = width,
                     .scores = scores_[member.rank].as<float>()});
    for (std::int64_t k = 0; k < together; ++k) {
      std::copy_n(place(k), width, mixed_ + ((t + k) * heads + head) * width);
      std::fill_n(place(k) + width, head_width_ - width, 0.0f);
    }
  }
}

/// Rows from t on, at most `most`, that are consecutive tokens of one sequence.
std::int64_t CpuForward::following_rows(std::int64_t t, std::int64_t most) const {
  std::int64_t count = 1;
  while (count < most && rows_[t + count].cache == rows_[t].cache &&
         rows_[t + count].position == rows_[t].position + count) {
    ++count;
  }
  return count;
}

void CpuForward::norm(const Maker& maker, const std::vector<float>& weight) {
  const std::int64_t width = model_.hidden_size;
  const auto [begin, end] = maker.member.share(std::ssize(rows_));
  for (std::int64_t t = begin; t < end; ++t) {
    kernels::rms_norm(residual_ + t * width, weight.data(), width, model_.rms_norm_eps,
                      maker.hidden + t * hidden_width_);
  }
  maker.member.meet();
}

void CpuForward::prepare(const Maker& maker, const Item& item, const float* x,
                         std::int64_t x_stride) {
  const std::int64_t parts = item.linear->table_parts();
  const std::int64_t in_lanes = item.linear->tokens_in_lanes(std::ssize(rows_));
  const auto [begin, end] = maker.member.share(std::ssize(rows_) * parts);
  for (std::int64_t n = begin; n < end;) {
    const std::int64_t t = n / parts, first = n % parts, last = std::min(parts, first + end - n);
    item.linear->prepare(x + t * x_stride, first, last, t < in_lanes,
                         item.tables + t * static_cast<std::int64_t>(item.linear->table_bytes()));
    n += last - first;
  }
}

void CpuForward::multiply(const Item& item, const Pieces& pieces, std::int64_t piece) {
  const auto [begin, end] = pieces.blocks(piece);
  const auto [first, last] = pieces.tokens(piece);
  item.linear->multiply(begin, end,
                        item.tables + first * static_cast<std::int64_t>(item.linear->table_bytes()),
                        last - first, item.out + first * item.stride, item.stride);
}

/// residual += the product; whoever computes rows adds them.
void CpuForward::add_to_residual(const Member& member, const Item& item) {
  const Pieces pieces(*item.linear, member.size, std::ssize(rows_));
  member.take(pieces.count, [&](std::int64_t piece) {
    multiply(item, pieces, piece);
    const auto [first, last] = pieces.rows(piece);
    const auto [token, tokens_end] = pieces.tokens(piece);
    for (std::int64_t t = token; t < tokens_end; ++t) {
      for (std::int64_t o = first; o < last; ++o) {
        residual_[t * item.stride + o] += item.out[t * item.stride + o];
      }
    }
  });
  member.meet();
}

}  // namespace fbi::infer
