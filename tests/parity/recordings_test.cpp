#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <ostream>
#include <sstream>
#include <string>
#include <tuple>

#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "parity/forms.h"
#include "support/expect_error.h"
#include "support/shared_data.h"
#include "support/temp_dir.h"

namespace fbi::parity {

/// For the names that ctest shows.
void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}
void PrintTo(const TrainerOptions& options, std::ostream* out) {
  *out << to_string(options);
}

namespace {

namespace fs = std::filesystem;

class Recording : public ::testing::TestWithParam<std::tuple<std::string, Form>> {};

TEST_P(Recording, IsReproduced) {
  const auto& [name, form] = GetParam();
  FBI_SHARED_OR_SKIP(directory, "reference-traces/" + name);
  at::set_num_threads(1);
  const Trace trace = load_trace(directory);
  const std::string reason = form.declines(trace);
  if (!reason.empty()) GTEST_SKIP() << reason;
  std::ostringstream report;
  EXPECT_TRUE(replay_and_judge(form, trace, report)) << report.str();
}

INSTANTIATE_TEST_SUITE_P(Published, Recording,
                         ::testing::Combine(::testing::Values("t1", "t2", "t3", "t3bf16", "t4row",
                                                              "t4single", "t5"),
                                            ::testing::ValuesIn(forms().begin(), forms().end())),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" +
                                  std::string(std::get<1>(info.param).name);
                         });

/// Whatever the trainer promises not to matter.
class RecordingWith : public ::testing::TestWithParam<TrainerOptions> {};

TEST_P(RecordingWith, IsReproduced) {
  at::set_num_threads(1);
  for (const std::string name : {"t1", "t3", "t5"}) {
    FBI_SHARED_OR_SKIP(directory, "reference-traces/" + name);
    std::ostringstream report;
    EXPECT_TRUE(replay_and_judge(forms().front(), load_trace(directory), report, GetParam()))
        << report.str();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Options, RecordingWith,
    ::testing::Values(
        TrainerOptions{.ranks = 2}, TrainerOptions{.recompute = true},
        TrainerOptions{.sign_products = "dense"}, TrainerOptions{.sign_products = "tables"},
        TrainerOptions{.sign_products = "dense", .working_copy = "step"},
        TrainerOptions{
            .ranks = 2, .recompute = true, .sign_products = "dense", .working_copy = "step"}),
    [](const auto& info) {
      std::string name = to_string(info.param);
      std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
      return name;
    });

/// A copy of t4row whose trace.json can be changed.
class BrokenRecording : public ::testing::Test {
 protected:
  void SetUp() override {
    FBI_SHARED_OR_SKIP(source, "reference-traces/t4row");
    fs::copy(source, copy_.path());
    for (const auto& entry : fs::directory_iterator(copy_.path()))
      fs::permissions(entry, fs::perms::owner_write, fs::perm_options::add);
    std::ifstream(copy_ / "trace.json") >> json_;
  }
  void expect_refused(const std::string& place, const std::string& reason) {
    std::ofstream(copy_ / "trace.json") << json_;
    test::expect_error<DataError>([&] { load_trace(copy_.path()); }, place, reason);
  }

  test::TempDir copy_;
  nlohmann::json json_;
};

TEST_F(BrokenRecording, NamesAMissingField) {
  json_.erase("batch");
  expect_refused("trace.json", "field 'batch' is missing");
}

TEST_F(BrokenRecording, NamesAFieldOfTheWrongType) {
  json_["loss_mode"] = "AR";
  expect_refused("trace.json", "field 'loss_mode'");
}

TEST_F(BrokenRecording, RefusesAKnownFieldWithAnUnknownValue) {
  json_["precision"] = "fp8";
  expect_refused("trace.json", "precision 'fp8'");
}

TEST_F(BrokenRecording, RefusesATeacherLossWithoutTeacher) {
  json_["loss_mode"] = 1;
  expect_refused("trace.json", "needs teacher_config");
}

TEST_F(BrokenRecording, ComparesShapesWithTheTensors) {
  json_["seq"] = 31;
  expect_refused("init.safetensors", "expected I32 [1, 2, 32], found I32 [1, 2, 33]");
}

TEST_F(BrokenRecording, ComparesTheVocabularyWithTheTokens) {
  json_["student_config"]["vocab_size"] = 5;
  expect_refused("init.safetensors", "with a vocabulary of 5");
}

TEST_F(BrokenRecording, NamesAModuleThatIsNotThere) {
  json_["binarized_modules"].push_back("model.layers.9.mlp.up_proj");
  expect_refused("init.safetensors", "model.layers.9.mlp.up_proj");
}

TEST_F(BrokenRecording, NamesATruncatedTensorFile) {
  fs::resize_file(copy_ / "first.safetensors", 1000);
  expect_refused("first.safetensors", "");
}

TEST(MissingRecording, NamesTheFile) {
  test::expect_error<DataError>([] { load_trace("/nowhere"); }, "/nowhere/trace.json");
}

}  // namespace
}  // namespace fbi::parity
