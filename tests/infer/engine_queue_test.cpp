#include <cmath>
#include <cstring>
#include <thread>

#include "fbi/core/file.h"
#include "fbi/exporter/packed.h"
#include "formats/memory_source.h"
#include "infer/engine_fixture.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::infer {
namespace {

using namespace std::chrono_literals;
using test::expect_error;

TEST_F(EngineTest, ManyThreadsMayAsk) {
  const GenerateOptions options = {.max_new_tokens = 8, .sampling = {.seed = 3}};
  const std::string expected = generate(model, words, "hello", options).text;
  Engine engine(model, words, {.max_batch = 4, .queue = 100});
  std::vector<std::thread> clients;
  for (int n = 0; n < 8; ++n) {
    clients.emplace_back([&] {
      for (int k = 0; k < 5; ++k) {
        const auto generation = engine.submit({request("hello", options)});
        EXPECT_EQ(fetch(*generation, 1)[0], expected);
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST_F(EngineTest, FirstComeFirstServed) {
  Engine engine(model, words, {.max_batch = 1, .queue = 3});
  words.close();
  const auto first = engine.submit({request("a", {.max_new_tokens = 3})});
  const auto second = engine.submit({request("b", {.max_new_tokens = 1})});
  const auto third = engine.submit({request("c", {.max_new_tokens = 1})});
  words.wait_for_somebody();
  EXPECT_TRUE(second->wait(0ms).empty());
  words.open();
  fetch(*third, 1);
  for (const auto& before : {first, second}) {
    before->wait(0ms);
    EXPECT_TRUE(before->ended());
  }
}

TEST_F(EngineTest, TakesNoMoreThanTheQueueHolds) {
  Engine engine(model, words, {.max_batch = 1, .queue = 2});
  words.close();
  const EngineRequest one = request("a", {.max_new_tokens = 1});
  const auto running = engine.submit({one});
  words.wait_for_somebody();
  const auto waiting = engine.submit({one});
  EXPECT_EQ(engine.load().running, 1);
  EXPECT_EQ(engine.load().waiting, 1);
  expect_error<BusyError>(
      [&] {
        engine.submit({one, one});
      },
      "1 texts are being written", "1 are waiting");
  const auto last = engine.submit({one});
  expect_error<BusyError>([&] { engine.submit({one}); }, "2 are waiting, of at most 1 and 2");
  expect_error<UsageError>([&] { engine.submit({one, one, one, one}); }, "1 to 3", "found 4");
  words.open();
  fetch(*last, 1);
  fetch(*engine.submit({one, one, one}), 3);
}

TEST_F(EngineTest, TextsWaitForRoomForTheirKeysAndValues) {
  const std::uint64_t room = 45 * model.cache_bytes_per_position();
  Engine engine(model, words, {.max_batch = 4, .queue = 4, .cache_bytes = room});
  const auto of_tokens = [&](std::int64_t count) {  // behind BOS and "a"
    return request("a", {.max_new_tokens = count - 2, .sampling = {}});
  };
  words.close();
  const auto texts = engine.submit({of_tokens(20), of_tokens(25), of_tokens(20), of_tokens(64)});
  words.wait_for_somebody();
  EXPECT_EQ(engine.load().running, 2);
  EXPECT_EQ(engine.load().waiting, 2);
  words.open();
  fetch(*texts, 4);
  EXPECT_GT(texts->result(3).new_tokens, 0) << "too long for the room, but alone";
}

TEST_F(EngineTest, CancelledTextsMakeRoom) {
  Engine engine(model, words, {.max_batch = 2, .queue = 1});
  words.close();
  const auto end = engine.submit({request("a", {.max_new_tokens = 2})});
  const auto running = engine.submit({request("b", {.max_new_tokens = 60})});
  words.wait_for_somebody();
  const auto waiting = engine.submit({request("c", {.max_new_tokens = 60})});
  running->cancel();
  waiting->cancel();
  words.open();
  for (const auto& cancelled : {running, waiting}) {
    fetch(*cancelled, 1);
    expect_error<CancelledError>([&] { cancelled->result(0); }, "given up");
  }
  fetch(*end, 1);
  EXPECT_EQ(end->result(0).new_tokens, 2);
  end->cancel();  // too late, and harmless
  EXPECT_EQ(end->result(0).new_tokens, 2);
}

TEST_F(EngineTest, StopLetsTextsEnd) {
  Engine engine(model, words, {.max_batch = 1, .queue = 3});
  const auto generation =
      engine.submit({request("a", {.max_new_tokens = 20}), request("b", {.max_new_tokens = 20})});
  engine.stop(kLong);
  fetch(*generation, 2);
  EXPECT_EQ(generation->result(1).ids, generate(model, words, "b", {.max_new_tokens = 20}).ids);
  expect_error<BusyError>([&] { engine.submit({request("a", {})}); }, "being stopped");
  EXPECT_TRUE(engine.load().stopping);
}

TEST_F(EngineTest, StopCutsOffWhatTakesTooLong) {
  Engine engine(model, words, {.max_batch = 2, .queue = 3});
  words.close();
  const EngineRequest short_text = request("a", {.max_new_tokens = 1}),
                      long_text = request("b", {.max_new_tokens = 60});
  const auto generation = engine.submit({short_text, long_text, long_text});
  words.wait_for_somebody();
  std::thread stopper([&] { engine.stop(0ms); });
  while (!engine.load().stopping) std::this_thread::sleep_for(1ms);
  words.open();
  stopper.join();
  fetch(*generation, 3);
  EXPECT_EQ(generation->result(0).new_tokens, 1);
  expect_error<CancelledError>([&] { generation->result(2); }, "being stopped");
}

TEST_F(EngineTest, RefusesWhatCannotBeContinued) {
  Engine engine(model, words);
  const EngineRequest good = request("a", {.max_new_tokens = 1});
  const auto refused = [&](EngineRequest bad, const std::string& part) {
    expect_error<UsageError>([&] { engine.submit({good, bad}); }, part);
    EXPECT_EQ(engine.load().running + engine.load().waiting, 0);
  };
  refused({{}, {}}, "empty prompt");
  const EngineRequest long_one = {std::vector<std::int32_t>(64, 5), {}};
  expect_error<ContextError>([&] { engine.submit({long_one}); }, "context of 64");
  refused({{1, 61}, {}}, "token id 61");
  refused({{1, -1}, {}}, "token id -1");
  refused(request("a", {.max_new_tokens = -1}), "max_new_tokens");
  refused(request("a", {.sampling = {.top_p = 0}}), "top_p");
  refused(request("a", {.stop = {""}}), "stop string");
  expect_error<UsageError>([&] { engine.submit({}); }, "found 0");
  expect_error<UsageError>([&] { Engine(model, words, {.max_batch = 0}); }, "max_batch",
                           "1 to 256");
  expect_error<UsageError>([&] { Engine(model, words, {.queue = -1}); }, "queue");
}

TEST(EngineErrorTest, ABrokenRowEndsOnlyItsOwnText) {
  const test::TempDir dir;
  formats::MemorySource source(engine_model());
  exporter::export_packed(source, engine_model(), dir / "m", formats::DType::kF32).commit();
  const auto file = dir / "m" / "model.safetensors";
  std::string bytes = read_file(file);
  const auto& rows = source.values("model.embed_tokens.weight");
  const std::string row(reinterpret_cast<const char*>(&rows[50 * 12]), 12 * sizeof(float));
  const float bad = NAN;
  ASSERT_NE(bytes.find(row), std::string::npos);
  std::memcpy(bytes.data() + bytes.find(row), &bad, sizeof bad);
  write_file(file, bytes);
  std::filesystem::remove(dir / "m" / "checksums.json");  // with it the model would not load

  PackedModel model(dir / "m", {.threads = 1});
  const Words words;
  const GenerateOptions options = {.max_new_tokens = 3, .sampling = {.temperature = 0}};
  const std::string expected = generate(model, words, "abc", options).text;
  Engine engine(model, words);
  const EngineRequest good = {prompt_ids(model, words, "abc", true), options};
  const auto generation = engine.submit({good, {{1, 5, 50, 6}, options}, good});
  while (!generation->ended()) generation->wait(kLong);
  EXPECT_EQ(generation->result(0).text, expected);
  EXPECT_EQ(generation->result(2).text, expected);
  expect_error<DataError>([&] { generation->result(1); }, "embed_tokens");
}

}  // namespace
}  // namespace fbi::infer
