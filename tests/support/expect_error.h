#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <exception>
#include <string>
#include <typeinfo>

namespace fbi::test {

/// Expects `call()` to throw exactly E (fbi::DataError, …) with every one of `parts` in its
/// message; returns the message.
///   expect_error<DataError>([&] { SafetensorsFile file(path); }, path.string(), "expected 4");
template <class E, class Call, class... Parts>
std::string expect_error(Call&& call, const Parts&... parts) {
  try {
    call();
  } catch (const std::exception& error) {
    EXPECT_EQ(typeid(error), typeid(E))
        << "unexpected kind of error " << typeid(error).name() << ": " << error.what();
    const std::string message = error.what();
    const auto expect_part = [&message](const std::string& part) {
      EXPECT_THAT(message, ::testing::HasSubstr(part));
    };
    (expect_part(parts), ...);
    return message;
  }
  ADD_FAILURE() << "expected an error, none was thrown";
  return {};
}

}  // namespace fbi::test
