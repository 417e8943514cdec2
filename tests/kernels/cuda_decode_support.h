#pragma once

#include <memory>

#include "fbi/kernels/cuda_decode.h"
#include "kernels/cuda_support.h"

/// A decode step's matrices and vectors, on the host in double and on the device.
namespace fbi::kernels::cuda {

/// W~ and its copy on the device.
struct SignMatrix {
  MatrixShape shape;
  ScaleStrides strides;
  std::vector<float> alpha, beta;
  std::vector<std::uint8_t> bits;
  DeviceArray<float> device_alpha, device_beta;
  DeviceArray<std::uint8_t> words;

  SignMatrix(MatrixShape shape_, ScaleStrides strides_, std::uint64_t seed,
             std::int64_t head_dim = 0)
      : shape(shape_),
        strides(strides_),
        alpha(normals(strides.count(shape.rows, shape.columns), seed)),
        beta(normals(strides.count(shape.rows, shape.columns), seed + 1, 0.1)),
        bits(packed(normals(shape.rows * shape.columns, seed + 2), shape)),
        device_alpha(alpha),
        device_beta(beta),
        words(repacked_bytes(shape)) {
    const DeviceArray<std::uint8_t> device_bits(bits);
    repack_signs(device_bits.data(), shape, head_dim, words.data(), nullptr);
    expect_success(cudaDeviceSynchronize());
  }

  RepackedMatrix on_device() const {
    return {words.data(), device_alpha.data(), device_beta.data(), strides, shape};
  }
  bool per_column() const { return strides.column != 0; }

  /// x W~ᵀ of one token by the definition, and Σ|W~||x|.
  struct Row {
    double value = 0, magnitude = 0;
  };
  std::vector<Row> product(const std::vector<double>& x) const {
    std::vector<Row> rows(static_cast<std::size_t>(shape.rows));
    for (std::int64_t o = 0; o < shape.rows; ++o) {
      for (std::int64_t i = 0; i < shape.columns; ++i) {
        const std::int64_t k = o * strides.row + i * strides.column;
        const double sign = sign_at(bits, shape, o, i) ? 1 : -1;
        rows[o].value += (sign * alpha[k] + beta[k]) * x[i];
        rows[o].magnitude += (std::abs(alpha[k]) + std::abs(beta[k])) * std::abs(x[i]);
      }
    }
    return rows;
  }
};

/// A vector per token, between the launch that publishes it and those that read it.
class Passed {
 public:
  static constexpr float kEps = 1e-5f;

  /// `matrices` read it, or, where there is none, one that has no scales.
  Passed(std::int64_t tokens, std::int64_t width, std::int64_t parts,
         const std::vector<const SignMatrix*>& matrices, const std::vector<float>& norm = {})
      : tokens_(tokens), norm_(norm), device_norm_(norm), squares_(tokens * parts) {
    readers_.width = width;
    readers_.parts = parts;
    readers_.count = static_cast<int>(std::max<std::size_t>(1, matrices.size()));
    if (!norm.empty()) {
      readers_.norm = device_norm_.data();
      readers_.squares = squares_.data();
    }
    for (int n = 0; n < readers_.count; ++n) {
      scaled_.push_back(std::make_unique<DeviceArray<float>>(tokens * width));
      sums_.push_back(std::make_unique<DeviceArray<float>>(tokens * parts));
      readers_.reader[n] = {nullptr, nullptr, scaled_.back()->data(), sums_.back()->data()};
      if (matrices.empty() || !matrices[n]->per_column()) continue;
      readers_.reader[n].alpha = matrices[n]->device_alpha.data();
      readers_.reader[n].beta = matrices[n]->device_beta.data();
    }
  }

  const Readers& readers() const { return readers_; }
  /// Publishes x [tokens, width], as an embedding whose rows are the tokens in reverse order.
  void publish(const std::vector<float>& x) const {
    const std::int64_t width = readers_.width;
    std::vector<float> reversed;
    std::vector<DecodeRow> rows;
    for (std::int64_t t = tokens_ - 1; t >= 0; --t) {
      reversed.insert(reversed.end(), x.begin() + t * width, x.begin() + (t + 1) * width);
      rows.push_back({0, nullptr, t});
    }
    const DeviceArray<float> table(reversed), residual(tokens_ * width);
    const DeviceArray<DecodeRow> device_rows(rows);
    embed({table.data(), nullptr, Storage::kFp32, {tokens_, width}, 4 * width}, device_rows.data(),
          tokens_, residual.data(), readers_, nullptr);
    EXPECT_EQ(residual.values(), x);
  }
  ProductInput input(int reader = 0) const {
    return {scaled_[reader]->data(), sums_[reader]->data(), readers_.squares, readers_.parts, kEps};
  }
  std::vector<float> scaled(int reader = 0) const { return scaled_[reader]->values(); }

  /// What the products should see of x [tokens, width]: with the norm.
  std::vector<std::vector<double>> seen(const std::vector<float>& x) const {
    std::vector<std::vector<double>> all;
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const auto begin = x.begin() + t * readers_.width;
      std::vector<double> row(begin, begin + readers_.width);
      double squares = 0;
      for (const double v : row) squares += v * v;
      const double factor = 1 / std::sqrt(squares / static_cast<double>(row.size()) + kEps);
      for (std::size_t i = 0; i < row.size() && !norm_.empty(); ++i) row[i] *= norm_[i] * factor;
      all.push_back(row);
    }
    return all;
  }

 private:
  std::int64_t tokens_;
  std::vector<float> norm_;
  DeviceArray<float> device_norm_, squares_;
  std::vector<std::unique_ptr<DeviceArray<float>>> scaled_, sums_;
  Readers readers_;
};

}  // namespace fbi::kernels::cuda
