#include "formats/torch_file.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"
#include "formats/stored_zip.h"
#include "formats/tensors.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/write_text.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

/// Written by torch.save, see torch_files/make.py.
fs::path sample(const char* name) {
  return fs::path(__FILE__).parent_path() / "torch_files" / name;
}

using Tensors = std::map<std::string, TensorView>;

Tensors tensors_of(const TorchFile& file) {
  Tensors result;
  for (const auto& view : file.tensors()) result[view.name] = view;
  return result;
}

TEST(TorchFileSamples, StateDictOfAModule) {
  const TorchFile file(sample("module.bin"));
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "0.weight");
  EXPECT_EQ(file.tensors()[0].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(float_values(file.tensors()[0]), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(file.tensors()[1].name, "0.bias");
  EXPECT_EQ(float_values(file.tensors()[1]), (std::vector<float>{-1, 0.5}));
}

TEST(TorchFileSamples, KindsOfTensors) {
  const TorchFile file(sample("kinds.bin"));
  const Tensors tensors = tensors_of(file);
  EXPECT_EQ(tensors.size(), 16u);
  const std::vector<float> numbers = {0, 1, 2, 3, 4, 5};
  for (const char* name : {"f64", "f16", "bf16", "parameter", "tied", "also_tied"}) {
    EXPECT_EQ(float_values(tensors.at(name)), numbers) << name;
  }
  EXPECT_EQ(tensors.at("bf16").dtype, DType::kBF16);
  EXPECT_EQ(tensors.at("tied").bytes.data(), tensors.at("also_tied").bytes.data());
  EXPECT_EQ(float_values(tensors.at("rows")), (std::vector<float>{3, 4, 5}));
  EXPECT_EQ(float_values(tensors.at("flat_part")), (std::vector<float>{2, 3, 4}));
  EXPECT_TRUE(tensors.at("scalar").shape.empty());
  EXPECT_EQ(float_values(tensors.at("scalar")), std::vector<float>{2.5});
  EXPECT_EQ(tensors.at("empty").shape, (std::vector<std::int64_t>{0, 4}));
  EXPECT_TRUE(tensors.at("empty").bytes.empty());
  for (const auto& [name, dtype] : std::map<std::string, DType>{{"i64", DType::kI64},
                                                                {"i32", DType::kI32},
                                                                {"i16", DType::kI16},
                                                                {"i8", DType::kI8},
                                                                {"u8", DType::kU8},
                                                                {"bool", DType::kBool}}) {
    EXPECT_EQ(tensors.at(name).dtype, dtype);
    EXPECT_EQ(tensors.at(name).bytes.size(), 6u * static_cast<std::size_t>(size_of(dtype)));
  }
  EXPECT_EQ(static_cast<int>(tensors.at("bool").bytes[3]), 1);
}

TEST(TorchFileSamples, ProtocolFour) {
  EXPECT_EQ(float_values(TorchFile(sample("protocol4.bin")).tensors().at(0)),
            (std::vector<float>{0, 1, 2, 3, 4, 5}));
}

/// As in the published models: tensors to which a library has given attributes.
TEST(TorchFileSamples, TensorsWithAttributes) {
  const TorchFile file(sample("attributes.bin"));
  ASSERT_EQ(file.tensors().size(), 2u);
  for (const TensorView& tensor : file.tensors()) {
    EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(float_values(tensor), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  }
}

TEST(TorchFileSamples, Refused) {
  const auto refused = [](const char* name, auto... text) {
    expect_error<DataError>([&] { TorchFile file(sample(name)); }, sample(name).string(), text...);
  };
  refused("malice.bin", "posix.system", "nothing of it was executed");
  refused("transposed.bin", "\"a\"", "strides [1, 3] of shape [3, 2]", ".contiguous()");
  refused("number.bin", "expected a tensor for \"step\"");
  refused("nested.bin", "expected a tensor for \"model\"");
  refused("legacy.bin", "before 1.6", "save it again");
  refused("make.py", "expected a zip archive");
}

/// Pieces of a pickle of protocol 2.
std::string text(const std::string& value) {
  std::string out = "X";
  append_number(out, value.size(), 4);
  return out + value;
}
std::string number(std::int32_t value) {
  std::string out = "J";
  append_number(out, static_cast<std::uint32_t>(value), 4);
  return out;
}
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string storage(const std::string& key, const std::string& type = "FloatStorage") {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + number(6) + "tQ";
}
std::string tuple(const std::vector<std::int32_t>& values) {
  std::string out = "(";
  for (const auto value : values) out += number(value);
  return out + "t";
}
std::string tensor(const std::vector<std::int32_t>& size, const std::vector<std::int32_t>& stride,
                   std::int32_t offset = 0, const std::string& key = "0") {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage(key) + number(offset) +
         tuple(size) + tuple(stride) + "\x89}tR";
}
std::string dict_of(const std::string& items) {
  return "\x80\x02}(" + items + "u.";
}

class TorchFiles : public testing::Test {
 protected:
  void write(const StoredZip& zip) { test::write_text(path_, zip.bytes()); }
  static StoredZip archive(const std::string& pickle) {
    return {
        {{"a/data.pkl", pickle}, {"a/byteorder", "little"}, {"a/data/0", std::string(24, '\0')}}};
  }
  template <class... Parts>
  void expect_refused(const StoredZip& zip, const Parts&... parts) {
    write(zip);
    expect_error<DataError>([&] { TorchFile file(path_); }, path_.string(), parts...);
  }
  template <class... Parts>
  void expect_pickle_refused(const std::string& pickle, const Parts&... parts) {
    expect_refused(archive(pickle), parts...);
  }

  test::TempDir folder_;
  fs::path path_ = folder_ / "pytorch_model.bin";
  const std::string sound_ = dict_of(text("t") + tensor({2, 3}, {3, 1}));
};

TEST_F(TorchFiles, WrittenByHand) {
  StoredZip zip = archive(sound_);
  for (const bool zip64 : {false, true}) {
    zip.zip64 = zip64;
    zip.comment = zip64 ? "a comment" : "";
    write(zip);
    EXPECT_EQ(TorchFile(path_).tensors().at(0).shape, (std::vector<std::int64_t>{2, 3}));
  }
}

TEST_F(TorchFiles, HostileArchives) {
  StoredZip zip = archive(sound_);
  zip.method = 8;
  expect_refused(zip, "is compressed");
  zip.method = 0;
  zip.flags = 1;
  expect_refused(zip, "is encrypted");
  zip.flags = 0;
  zip.added_bytes = 1u << 30;
  expect_refused(zip, "lies outside");
  zip.added_bytes = 0;
  zip.local_name_prefix = "b";
  expect_refused(zip, "is not where the central directory says");
  zip.local_name_prefix = "";
  zip.entries.push_back(zip.entries[2]);
  expect_refused(zip, "\"a/data/0\" occurs twice");
  zip.entries.back().first = "b/data.pkl";
  expect_refused(zip, "data.pkl twice");
  zip.entries = {{"a/b/data.pkl", sound_}};
  expect_refused(zip, "holds no data.pkl");
  zip = archive(sound_);
  zip.entries[1].second = "big";
  expect_refused(zip, "\"big\"", "expected \"little\"");
}

TEST_F(TorchFiles, EveryTruncationIsRefused) {
  for (const bool zip64 : {false, true}) {
    StoredZip zip = archive(sound_);
    zip.zip64 = zip64;
    const std::string whole = zip.bytes();
    for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
      test::write_text(path_, whole.substr(0, bytes));
      EXPECT_THROW(TorchFile file(path_), DataError) << bytes;
    }
  }
  const std::string pickle = sound_;
  for (std::size_t bytes = 0; bytes < pickle.size(); ++bytes) {
    write(archive(pickle.substr(0, bytes)));
    EXPECT_THROW(TorchFile file(path_), DataError) << bytes;
  }
}

TEST_F(TorchFiles, HostileTensors) {
  const auto refused = [&](const std::string& tensor_text, auto... parts) {
    expect_pickle_refused(dict_of(text("t") + tensor_text), parts...);
  };
  refused(tensor({2, 4}, {4, 1}), "\"t\"", "expected 32 bytes for F32 [2, 4]", "found 24");
  refused(tensor({2, 3}, {3, 1}, 1), "from element 1 on");
  refused(tensor({2, 3}, {3, 1}, -1), "not a view of a storage");
  std::string of_one_byte = tensor({2, 3}, {3, 1}, -1);
  of_one_byte.replace(of_one_byte.find(number(-1)), number(-1).size(), "\x8a\x01\xff");
  refused(of_one_byte, "not a view of a storage");
  refused(tensor({2, 3}, {1, 1}), "strides [1, 1]");
  refused(tensor({2, 3}, {0, 0}), "strides [0, 0]");
  refused(tensor({2, 3}, {3}), "size and stride disagree");
  refused(tensor({-2, 3}, {3, 1}), "not of whole numbers");
  const std::vector<std::int32_t> large(4, 2147483647), many(9, 1);
  refused(tensor(large, large), "more bytes than a file can have");
  refused(tensor(many, many), "9 dimensions");
  refused(tensor({2, 3}, {3, 1}, 0, std::string(256, '0')), "a storage whose key has 256 bytes");
  refused(tensor({2, 3}, {3, 1}, 0, "1"), "its storage data/\"1\" is not in the archive");
  refused(tensor({2, 3}, {3, 1}, 0, "../byteorder"), "is not in the archive");
  expect_pickle_refused(dict_of(text("t") + tensor({6}, {1}) + text("t") + tensor({6}, {1})),
                        "\"t\" occurs twice");
}

TEST_F(TorchFiles, HostilePickles) {
  const auto refused = [&](const std::string& pickle, auto... parts) {
    expect_pickle_refused("\x80\x02" + pickle, parts...);
  };
  refused(global("os", "system") + text("true") + "\x85R.", "\"os.system\"");
  refused(global("builtins", "eval") + ".", "\"builtins.eval\"");
  refused(global("torch._utils", "_rebuild_tensor_v2\x1b[2J") + ".", "\\u001b[2J");
  refused("(" + text("true") + "ios\nsystem\n.", "operation 105");  // INST
  refused(text("os") + text("system") + "\x93.", "\"os.system\"");
  refused(global("torch", "FloatStorage") + ")R.", "calls FloatStorage");
  refused(text("x") + ")R.", "calls something that is no function");
  const std::string from_type = global("torch._tensor", "_rebuild_from_type_v2");
  const std::string type = global("torch", "Tensor");
  const std::string rebuild = global("torch._utils", "_rebuild_tensor_v2");
  for (const std::string& call :
       {"(" + rebuild + type + ")t", "(" + type + type + ")}t", "(" + from_type + type + ")}t",
        "(" + rebuild + rebuild + ")}t", "(" + rebuild + type + "}}t",
        "(" + text("x") + type + ")}t", "(" + rebuild + type + "(" + std::string(8, 'N') + "t}t"}) {
    refused(from_type + call + "R.", "a tensor of a type of its own");
  }
  refused(from_type + "(" + rebuild + type + ")}tR.", "a tensor with 0 arguments");
  refused(type + ")R.", "calls Tensor");
  refused("}s.", "takes a value that it did not give");
  refused("}" + text("x") + "s.", "expected a dict");
  refused("](" + text("x") + "Nu.", "expected a dict");
  refused("}(" + text("x") + "u.", "a key of a dict has no value");
  refused("h\x07.", "recalls a value");
  refused("t.", "returns to a mark");
  refused("}}.", "leaves 2 values");
  refused("}.}", "something after its end");
  refused("].", "expected a dict from name to tensor");
  refused("}K\x01K\x02s.", "no text");
  refused("}}Q.", "not the storage of a tensor");
  refused("X\xff\xff\xff\xff", "cut short");
  refused("\x8a\x09" + std::string(9, '\1') + ".", "an integer of 9 bytes");
  expect_pickle_refused("\x80\x01}.", "expected protocol 2 to 5, found 1");
  // A list that contains itself, and one nested a hundred thousand times: nothing follows either.
  refused("]q\1h\1a.", "expected a dict");
  refused(std::string(100'000, ')') + "\x85.", "leaves");
  refused(")" + std::string(100'000, '\x85') + ".", "expected a dict");
}

TEST_F(TorchFiles, AsAModelFolder) {
  write(archive(sound_));
  EXPECT_EQ(TensorFolder(folder_.path()).names(), std::vector<std::string>{"t"});
  const auto other = floats("u", {1});
  write_safetensors(folder_ / "model.safetensors", std::vector{other.view()});
  EXPECT_EQ(TensorFolder(folder_.path()).names(), std::vector<std::string>{"u"})
      << "safetensors count where both are there";
}

TEST_F(TorchFiles, AsShards) {
  write(archive(sound_));
  fs::rename(path_, folder_ / "pytorch_model-00001-of-00002.bin");
  write(archive(dict_of(text("u") + tensor({6}, {1}))));
  fs::rename(path_, folder_ / "pytorch_model-00002-of-00002.bin");
  const fs::path index = folder_ / "pytorch_model.bin.index.json";
  test::write_text(index, R"({"weight_map": {"t": "pytorch_model-00001-of-00002.bin",
                                             "u": "pytorch_model-00002-of-00002.bin"}})");
  EXPECT_EQ(TensorFolder(folder_.path()).names(), (std::vector<std::string>{"t", "u"}));
  test::write_text(index, R"({"weight_map": {"t": "../pytorch_model-00001-of-00002.bin"}})");
  expect_error<DataError>([&] { TensorFolder model(folder_.path()); }, index.string(),
                          "lies outside the folder");
}

}  // namespace
}  // namespace fbi::formats
