#include "exporter/check_source.h"

#include <gtest/gtest.h>

#include "config/small_model.h"
#include "formats/memory_source.h"
#include "support/expect_error.h"

namespace fbi::exporter {
namespace {

using test::expect_error;

TEST(CheckSourceTest, TiedScalesAreEqual) {
  config::ModelConfig model = config::tied_model();
  formats::MemorySource source(model);
  check_source(source, model);
  source.values("model.layers.1.mlp.up_proj.wscale")[5] += 1e-6f;
  expect_error<DataError>([&] { check_source(source, model); },
                          "model.layers.1.mlp.up_proj.wscale in MEMORY differs from "
                          "model.layers.1.mlp.gate_proj.wscale");
  model.tie_scales = false;
  check_source(source, model);
  model.shift = true;
  expect_error<DataError>([&] { check_source(source, model); },
                          "missing: model.layers.0.mlp.down_proj.wbias");
}

}  // namespace
}  // namespace fbi::exporter
