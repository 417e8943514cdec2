#pragma once

#include "fbi/config/run_config.h"

namespace fbi::config {

/// Every size differs from every other, so that no two axes can be confused.
inline ModelConfig small_model(Binarize binarize = Binarize::kColumn) {
  ModelConfig model;
  model.vocab_size = 29;
  model.hidden_size = 12;
  model.intermediate_size = 20;
  model.num_hidden_layers = 2;
  model.num_attention_heads = 4;
  model.num_key_value_heads = 2;
  model.head_dim = 4;
  model.max_position_embeddings = 32;
  model.binarize = binarize;
  return model;
}

/// With tied scales and without shifts.
inline ModelConfig tied_model() {
  ModelConfig model = small_model();
  model.tie_scales = true;
  model.shift = false;
  return model;
}

}  // namespace fbi::config
