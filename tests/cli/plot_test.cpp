#include "cli/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::cli {
namespace {

/// One curve at steps 1, 2, 3, …
std::string picture(const std::vector<double>& values, bool smooth) {
  Series series{"loss", {}, values, 0};
  for (std::size_t i = 0; i < values.size(); ++i) series.x.push_back(static_cast<double>(i + 1));
  return render_svg("a run", {{"loss", "step", smooth, false, {series}}});
}

/// The last point of the last curve, "x,y".
std::string last_point(const std::string& svg) {
  const auto end = svg.find(" '/>", svg.rfind("<polyline"));
  const auto begin = svg.rfind(' ', end - 1) + 1;
  return svg.substr(begin, end - begin);
}

TEST(Plot, EndsWithTheMeanOfTheLastSteps) {
  std::vector<double> values(1000, 2.0);
  values.back() = 13;  // one of the last 1 + 1000/100 steps
  EXPECT_THAT(picture(values, true), testing::HasSubstr(">loss 3</text>"));
  EXPECT_THAT(picture(values, false), testing::HasSubstr(">loss 13</text>"));
  values.assign(1000, 2.0);
  values.front() = 13;
  EXPECT_THAT(picture(values, true), testing::HasSubstr(">loss 2</text>"));
}

TEST(Plot, OfFewStepsShowsThemAsTheyAre) {
  EXPECT_THAT(picture({1, 2, 4}, true), testing::HasSubstr(">loss 4</text>"));
  EXPECT_THAT(picture({5}, true), testing::HasSubstr(">loss 5</text>"));
}

TEST(Plot, DrawsTheLastStepOfALongRun) {
  std::vector<double> values(2500, 0.0);
  values.back() = 2;
  // The right upper corner of the panel.
  EXPECT_EQ(last_point(picture(values, false)), "434.0,70.0");
}

TEST(Plot, DeeplyNestedMetricsAreNoMetrics) {
  const test::TempDir folder;
  const std::string deep(500'000, '[');
  write_file(folder / "metrics.jsonl",
             "{\"step\": 1, \"loss_next_token\": " + deep + std::string(deep.size(), ']') + "}\n");
  test::expect_error<DataError>([&] { run_panels({folder.path()}); },
                                "metrics.jsonl:1: not a line of metrics");
}

}  // namespace
}  // namespace fbi::cli
