#include "estimate/step_walk.h"

#include <algorithm>
#include <deque>

#include "estimate/layer_walk.h"
#include "estimate/parameter_shapes.h"
#include "fbi/distill/objective.h"
#include "fbi/ops/sign_products.h"
#include "fbi/optim/adamw.h"

namespace fbi::estimate {
namespace {

using Buffer = MemoryLedger::Buffer;

std::int64_t element_bytes(config::Precision precision) {
  return precision == config::Precision::kBf16 ? 2 : 4;
}

std::int64_t largest_matrix(const ParameterShapes& shapes) {
  std::int64_t largest = shapes.embedding.elements();
  for (const auto& matrix : shapes.layer) largest = std::max(largest, matrix.elements());
  return largest;
}

class StepWalk {
 public:
  StepWalk(const config::RunConfig& config, const std::optional<TeacherPlan>& teacher,
           int world_size, Processor processor)
      : config_(config),
        teacher_(config.objective.distill > 0 ? teacher : std::nullopt),
        world_size_(world_size),
        processor_(processor),
        student_(parameter_shapes(config.model)),
        element_(element_bytes(config.train.precision)),
        tokens_(config.train.micro_batch * config.train.seq_len),
        walk_(ledger_, student_shape(), config::decoder_linears(config.model)) {}

  MemoryEstimate run() {
    MemoryEstimate result;
    load_teacher();
    hold_student();
    make(MemoryKind::kWorkspace,
         largest_matrix(student_) * kFloatBytes);  // latent weights, one matrix after the other
    result.constant = ledger_.now();
    micro_step();
    update();
    result.phases = ledger_.phases();
    return result;
  }

 private:
  using Graphs = std::vector<LayerWalk::Graph>;

  Buffer make(MemoryKind kind, std::int64_t bytes) { return ledger_.make(kind, bytes); }
  Buffer stream(std::int64_t width) {
    return make(MemoryKind::kActivations, tokens_ * width * kFloatBytes);
  }

  PassShape student_shape() const {
    PassShape shape = pass_shape(config_.model, tokens_);
    place(shape, element_);
    if (shape.packed && (!unpacks() || keeps_unpacked())) {
      shape.packed = false;
      shape.value_element = element_;
    }
    shape.fp8_signs = multiplies_in_fp8(config_);
    return shape;
  }

  /// Not products from sign tables, which are no tensors and as small as a few tokens.
  bool unpacks() const {
    const auto dtype = element_ == kFloatBytes ? at::kFloat : at::kBFloat16;
    return processor_ == Processor::kGpu ||
           ops::unpacks(ops::choose_sign_products(config_.train.sign_products, at::kCPU, dtype,
                                                  config_.model.hidden_size));
  }
  bool keeps_unpacked() const { return unpacks() && config_.train.working_copy == "step"; }

  /// What follows from the processor and the compute dtype.
  void place(PassShape& shape, std::int64_t element) const {
    const bool cpu = processor_ == Processor::kCpu;
    shape.element = element;
    shape.attention_element = cpu ? kFloatBytes : element;
    shape.fused_rotary = !cpu || element == kFloatBytes;
    shape.own_attention = cpu;
    shape.mixed_products = !cpu;
  }

  /// distill::load_teacher: all slots are made in the teacher's own type and filled one by one,
  /// each from a matrix in fp32. Spread over ranks: each matrix of a layer is cut to this rank's
  /// rows as it is read; at last there are two whole layers to gather into.
  void load_teacher() {
    ledger_.begin("loading");
    if (!teacher_) return;
    const auto shapes = parameter_shapes(teacher_->model);
    const std::int64_t value = teacher_->value_bytes;
    const auto stored = [](std::int64_t value_bytes) {
      return [value_bytes](const ParameterMatrix& m) {
        return m.packed ? m.bits_bytes() : m.elements() * value_bytes;
      };
    };
    const std::int64_t vectors = (shapes.norm_elements + shapes.scale_values) * kFloatBytes;
    std::int64_t layers = shapes.layers * shapes.over_layer(stored(value));
    if (teacher_->fp8)  // whole in its own type, before distill::store_as_fp8
      make(MemoryKind::kTeacher, layers + shapes.over_vocabulary(stored(value)) + vectors +
                                     largest_matrix(shapes) * kFloatBytes);
    if (teacher_->fp8)
      layers = shapes.layers * shapes.over_layer([](const ParameterMatrix& m) {
        return m.elements() + m.rows * kFloatBytes;
      });
    if (spreads_teacher())
      layers = (shapes.layers *
                    shapes.over_layer([&](const ParameterMatrix& m) { return own_elements(m); }) +
                2 * shapes.over_layer([](const ParameterMatrix& m) { return m.elements(); })) *
               value;
    constant_.push_back(
        make(MemoryKind::kTeacher, layers + shapes.over_vocabulary(stored(value)) + vectors));
    if (!spreads_teacher()) make(MemoryKind::kTeacher, largest_matrix(shapes) * kFloatBytes);
  }

  bool spreads_teacher() const { return config_.parallel.shard_teacher && world_size_ > 1; }
  std::int64_t own_elements(const ParameterMatrix& matrix) const {
    return matrix.block_rows(world_size_) * matrix.columns;
  }

  void hold_student() {
    const auto hold = [&](MemoryKind kind, std::int64_t bytes) {
      constant_.push_back(make(kind, bytes));
    };
    const std::int64_t replicated = student_.norm_elements + student_.scale_elements;
    const std::int64_t own =
        student_.over_matrices([&](const ParameterMatrix& m) { return own_elements(m); });
    const std::int64_t dense = student_.over_matrices(
        [](const ParameterMatrix& m) { return m.packed ? 0 : m.elements(); });
    hold(MemoryKind::kLatent, kFloatBytes * student_.over_matrices([&](const ParameterMatrix& m) {
      return m.packed ? own_elements(m) : 0;
    }));
    hold(MemoryKind::kMoments, 2 * kFloatBytes * (own + replicated));
    hold(MemoryKind::kBits,
         student_.over_matrices([](const ParameterMatrix& m) { return m.bits_bytes(); }));
    if (keeps_unpacked())
      hold(MemoryKind::kWorkspace, element_ * student_.over_matrices([](const ParameterMatrix& m) {
        return m.packed ? m.elements() : 0;
      }));
    hold(MemoryKind::kValues,
         kFloatBytes * (dense + student_.norm_elements + student_.scale_values));
    hold(MemoryKind::kGradients, kFloatBytes * (gradient_elements() + (world_size_ > 1 ? own : 0) +
                                                student_.norm_elements + replicated));
  }

  /// Buffers that backward writes matrix gradients to, as far as they are held all the time; as
  /// train::layer_gradients says.
  std::int64_t gradient_elements() const {
    const std::int64_t layers = world_size_ == 1                   ? 0
                                : config_.parallel.shard_gradients ? 1
                                                                   : student_.layers;
    return layers * layer_elements() + 2 * student_.embedding.elements();  // and head, or tied part
  }
  std::int64_t layer_elements() const {
    return student_.over_layer([](const ParameterMatrix& m) { return m.elements(); });
  }

  /// Gradients of layers on demand. Of several micro-steps any but the first has the largest peak.
  void demand_gradients() {
    if (world_size_ > 1) return;
    if (config_.train.global_batch > config_.train.micro_batch)
      gradients_.push_back(
          make(MemoryKind::kGradients, student_.layers * layer_elements() * kFloatBytes));
    else
      walk_.make_gradients(&gradients_);
  }

  void micro_step() {
    ledger_.begin(teacher_ ? "teacher" : "forward");
    demand_gradients();
    if (config_.parallel.shard_gradients &&
        config_.train.global_batch > config_.train.micro_batch * world_size_) {
      reduce(student_.layer);  // of the micro-step before, still under way
      reduce({student_.embedding});
    }
    const Buffer ids =
        make(MemoryKind::kActivations, tokens_ * (4 + 8 + 4));  // as read, inputs, targets
    Buffer reference;
    if (teacher_) {
      reference = teacher_forward();
      ledger_.begin("forward");
    }
    Graphs graphs;
    std::vector<Buffer> inputs;
    const Buffer hidden = forward(inputs, graphs);
    const Buffer dhidden = stream(config_.model.hidden_size);
    ledger_.begin("loss");
    loss_chunk();
    ledger_.begin("backward");
    if (student_.has_head) reduce({student_.embedding});
    backward(dhidden, inputs, graphs);
    reduce({student_.embedding});
    reductions_.clear();
  }

  /// Hidden states after the final norm; layers one after the other, nothing kept.
  Buffer teacher_forward() {
    const std::int64_t samples = config_.teacher.micro_batch;
    PassShape shape =
        pass_shape(teacher_->model, samples > 0 ? samples * config_.train.seq_len : tokens_);
    place(shape, teacher_->compute_bytes);
    shape.value_element = teacher_->value_bytes;
    shape.fp8 = teacher_->fp8;
    const auto linears = config::decoder_linears(teacher_->model);
    LayerWalk walk(ledger_, shape, linears);
    Buffer next_layer;  // on its way while a layer computes
    if (spreads_teacher())
      next_layer = exchange(parameter_shapes(teacher_->model).layer, teacher_->value_bytes);
    Buffer x = stream(teacher_->model.hidden_size), inverse_rms;
    const Buffer y = walk.forward(x, nullptr);  // all layers are alike
    if (samples > 0) {                          // of a part, and written over its input
      walk.norm_forward(&inverse_rms);
      return x;
    }
    x = y;
    return walk.norm_forward(&inverse_rms);
  }

  Buffer forward(std::vector<Buffer>& inputs, Graphs& graphs) {
    const bool keep = !config_.train.recompute;
    Buffer x = walk_.stream();
    for (std::int64_t layer = 0; layer < student_.layers; ++layer) {
      inputs.push_back(x);
      if (keep) graphs.emplace_back();
      x = walk_.forward(x, keep ? &graphs.back() : nullptr);
    }
    inputs.push_back(x);
    return walk_.norm_forward(&final_inverse_rms_);
  }

  /// distill::Objective::run for one chunk.
  void loss_chunk() {
    const std::int64_t chunk = std::min(config_.train.loss_chunk_tokens, tokens_);
    const std::int64_t logits = chunk * config_.model.vocab_size;
    const auto hold = [&](std::int64_t bytes) { return make(MemoryKind::kLossChunk, bytes); };
    Buffer head, teacher_head, reference;
    if (element_ != kFloatBytes) head = hold(student_.embedding.elements() * element_);
    if (teacher_ && teacher_->value_bytes != teacher_->compute_bytes) {
      std::int64_t rows = config_.model.vocab_size;
      if (processor_ == Processor::kCpu) rows = std::min(rows, distill::kTeacherHeadRows);
      teacher_head = hold(rows * teacher_->model.hidden_size * teacher_->compute_bytes +
                          (rows < config_.model.vocab_size ? chunk * rows * kFloatBytes : 0));
    }
    // ops::logits_dtype
    const bool as_multiplied =
        processor_ == Processor::kGpu && (!teacher_ || teacher_->compute_bytes == element_);
    const std::int64_t logit = as_multiplied ? element_ : kFloatBytes;
    const auto product = [&](std::int64_t element, std::int64_t width) {
      const Buffer rows = element == kFloatBytes ? Buffer() : hold(chunk * width * element);
      const Buffer low = element == logit ? Buffer() : hold(logits * element);
      return hold(logits * logit);
    };
    const Buffer student = product(element_, config_.model.hidden_size);
    if (teacher_) reference = product(teacher_->compute_bytes, teacher_->model.hidden_size);
    const Buffer losses = hold(2 * chunk * kFloatBytes);
    const Buffer dlogits = element_ == logit ? Buffer() : hold(logits * element_);
    hold(chunk * config_.model.hidden_size * element_);  // dhidden of the chunk
    if (element_ == kFloatBytes) return;
    const std::int64_t widened = processor_ == Processor::kCpu
                                     ? kFloatBytes * (logits + chunk * config_.model.hidden_size)
                                     : 0;
    hold(widened +
         chunk * config_.model.hidden_size * element_);  // operands of the head's gradient
  }

  void backward(const Buffer& dhidden, std::vector<Buffer>& inputs, Graphs& graphs) {
    Buffer gradient = dhidden, output;  // of a stage: the input of the one behind it
    for (std::int64_t stage = student_.layers; stage >= 0; --stage) {
      const Buffer input = std::move(inputs.back());
      inputs.pop_back();
      gradient = stage == student_.layers ? norm_stage() : layer_stage(input, gradient, graphs);
      if (stage < student_.layers) reduce(student_.layer);
      if (!config_.train.recompute) output = input;
    }
    if (processor_ == Processor::kGpu)
      walk_.stream();  // rows of the embedding's gradient without padding
  }

  Buffer norm_stage() {
    Buffer output;
    if (config_.train.recompute) output = walk_.norm_forward(&final_inverse_rms_);
    return walk_.norm_backward();
  }

  Buffer layer_stage(const Buffer& input, const Buffer& gradient, Graphs& graphs) {
    LayerWalk::Graph graph;
    Buffer output;
    if (config_.train.recompute) {
      output = walk_.forward(input, &graph);
    } else {
      graph = std::move(graphs.back());
      graphs.pop_back();
    }
    return walk_.backward(gradient, std::move(graph));
  }

  /// The buffers of a distributed::RowReduction or RowGather: the blocks of all ranks on one side,
  /// of this rank on the other.
  Buffer exchange(const std::vector<ParameterMatrix>& matrices, std::int64_t element) {
    std::int64_t block = 0;
    for (const auto& matrix : matrices) block += own_elements(matrix);
    return make(MemoryKind::kWorkspace, (world_size_ + 1) * block * element);
  }

  void reduce(const std::vector<ParameterMatrix>& matrices) {
    if (world_size_ == 1) return;
    if (reductions_.size() == optim::kReductionsUnderWay) reductions_.pop_front();
    reductions_.push_back(exchange(matrices, element_bytes(config_.parallel.gradient_dtype)));
  }

  /// All working copies are gathered at once: bits in one exchange, full-precision matrices each in
  /// its own, without buffers where its rows divide.
  void update() {
    ledger_.begin("update");
    if (world_size_ == 1) return;
    const std::int64_t block_bytes =
        student_.over_matrices([&](const ParameterMatrix& m) -> std::int64_t {
          if (m.packed) return m.block_rows(world_size_) * m.row_bits_bytes();
          return m.rows % world_size_ == 0 ? 0 : own_elements(m) * kFloatBytes;
        });
    make(MemoryKind::kWorkspace, (world_size_ + 1) * block_bytes);
  }

  const config::RunConfig& config_;
  std::optional<TeacherPlan> teacher_;
  int world_size_;
  Processor processor_;
  ParameterShapes student_;
  std::int64_t element_, tokens_;
  MemoryLedger ledger_;  // before everything that holds blocks of it
  LayerWalk walk_;
  std::vector<Buffer> constant_;
  std::vector<Buffer> gradients_;  // of layers on demand
  Buffer final_inverse_rms_;
  std::deque<Buffer> reductions_;
};

}  // namespace

MemoryEstimate walk_step(const config::RunConfig& config, const std::optional<TeacherPlan>& teacher,
                         int world_size, Processor processor) {
  return StepWalk(config, teacher, world_size, processor).run();
}

bool multiplies_in_fp8(const config::RunConfig& config) {
  return config.train.sign_products == "fp8" && config.model.binarize != config::Binarize::kNone;
}

}  // namespace fbi::estimate
