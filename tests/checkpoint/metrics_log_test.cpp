#include "fbi/checkpoint/metrics_log.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::checkpoint {
namespace {

std::string lines(int first, int last) {
  std::string text;
  for (int step = first; step <= last; ++step) {
    text += "{\"step\":" + std::to_string(step) + ",\"loss\":1." + std::to_string(step) + "}\n";
  }
  return text;
}

std::string cut(const test::TempDir& folder, const std::string& text, std::int64_t step) {
  const auto path = folder / "metrics.jsonl";
  write_file(path, text);
  const std::uint64_t removed = cut_metrics(path, step);
  const std::string left = read_file(path);
  EXPECT_EQ(removed, text.size() - left.size());
  EXPECT_EQ(left, text.substr(0, left.size())) << "earlier bytes must stay as they are";
  return left;
}

TEST(CutMetrics, KeepsLinesUpToTheStep) {
  const test::TempDir folder;
  const std::string text = lines(1, 10);
  EXPECT_EQ(cut(folder, text, 4), lines(1, 4));
  EXPECT_EQ(cut(folder, text, 10), text);
  EXPECT_EQ(cut(folder, text, 11), text);
  EXPECT_EQ(cut(folder, text, 1), lines(1, 1));
  EXPECT_EQ(cut(folder, text, 0), "");
  EXPECT_EQ(cut(folder, "", 3), "");
}

TEST(CutMetrics, DropsAnUnfinishedLastLine) {
  const test::TempDir folder;
  EXPECT_EQ(cut(folder, lines(1, 3) + "{\"step\":4,\"lo", 9), lines(1, 3));
  EXPECT_EQ(cut(folder, lines(1, 3) + "{\"step\":4,\"loss\":1}", 9), lines(1, 3))
      << "a line without its end may lack digits";
  EXPECT_EQ(cut(folder, std::string("{\"st"), 9), "");
  EXPECT_EQ(cut(folder, lines(1, 3) + std::string(40, '\0'), 9), lines(1, 3))
      << "zeros after a power cut";
}

TEST(CutMetrics, FindsTheStepWhereverItStandsInALine) {
  const test::TempDir folder;
  const std::string first = "{ \"loss\": 2.5, \"step\": 7, \"layers\": {\"step\": 99} }\n";
  const std::string second = "{\"nested\":{\"step\":1},\"step\":8}\n";
  EXPECT_EQ(cut(folder, first + second, 7), first);
  EXPECT_EQ(cut(folder, first + second, 8), first + second);
  EXPECT_EQ(cut(folder, "{\"step\":12e0,\"loss\":1}\n" + second, 7), "{\"step\":12e0,\"loss\":1}\n")
      << "a step is a whole number";
}

TEST(CutMetrics, LinesWithoutAStepStayWithWhatPrecedesThem) {
  const test::TempDir folder;
  const std::string event = "{\"event\":\"resumed\"}\n", junk = "not json\n\n";
  EXPECT_EQ(cut(folder, lines(1, 2) + event + junk + lines(3, 4), 2), lines(1, 2) + event + junk);
  EXPECT_EQ(cut(folder, lines(1, 3) + event, 2), lines(1, 2));
}

TEST(LastStep, IsThatOfTheLastWholeLine) {
  const test::TempDir root;
  const auto path = root / "metrics.jsonl";
  EXPECT_EQ(last_step(path), std::nullopt);
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::int64_t>>{
           {"", -1},
           {"{\"step\":3}", -1},
           {"{\"step\":3}\n", 3},
           {"{\"step\":3}\n{\"step\":4}\n{\"step\":5", 4},
           {"{\"step\":3}\n{\"note\":1}\nno json\n\n", 3}}) {
    write_file(path, text);
    EXPECT_EQ(last_step(path).value_or(-1), expected) << text;
  }
}

TEST(CutMetrics, NoFileIsNothingToCut) {
  const test::TempDir folder;
  EXPECT_EQ(cut_metrics(folder / "metrics.jsonl", 5), 0u);
  std::filesystem::create_directory(folder / "metrics.jsonl");
  test::expect_error<DataError>([&] { cut_metrics(folder / "metrics.jsonl", 5); }, "metrics.jsonl");
}

}  // namespace
}  // namespace fbi::checkpoint
