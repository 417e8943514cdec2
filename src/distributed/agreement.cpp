#include "fbi/distributed/agreement.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstring>
#include <exception>

#include "fbi/core/error.h"

namespace fbi::distributed {
namespace {

[[noreturn]] void throw_like(int exit_code, const std::string& message) {
  switch (static_cast<ExitCode>(exit_code)) {
    case ExitCode::kUsage:
      throw UsageError(message);
    case ExitCode::kData:
      throw DataError(message);
    case ExitCode::kCheckpoint:
      throw CheckpointError(message);
    case ExitCode::kDiverged:
      throw DivergedError(message);
    case ExitCode::kDisk:
      throw DiskError(message);
    default:
      throw PeerError(message);
  }
}

}  // namespace

std::vector<std::string> all_gather_text(Communicator& communicator, std::string_view text) {
  const auto size = communicator.size();
  at::Tensor lengths = at::zeros({size}, at::kLong);
  lengths.mutable_data_ptr<std::int64_t>()[communicator.rank()] =
      static_cast<std::int64_t>(text.size());
  at::Tensor on_device = lengths.to(communicator.device());
  communicator.all_reduce(on_device, Reduce::kSum)->wait();
  lengths = on_device.to(at::kCPU);
  const auto* length = lengths.const_data_ptr<std::int64_t>();
  std::int64_t longest = 1;
  for (int rank = 0; rank < size; ++rank) longest = std::max(longest, length[rank]);

  at::Tensor mine = at::zeros({longest}, at::kByte);
  std::memcpy(mine.mutable_data_ptr(), text.data(), text.size());
  mine = mine.to(communicator.device());
  at::Tensor all = at::empty({size * longest}, mine.options());
  communicator.all_gather(all, mine)->wait();
  all = all.to(at::kCPU);
  const char* bytes = static_cast<const char*>(all.const_data_ptr());
  std::vector<std::string> texts;
  for (int rank = 0; rank < size; ++rank) {
    texts.emplace_back(bytes + rank * longest, static_cast<std::size_t>(length[rank]));
  }
  return texts;
}

void run_together(Communicator& communicator, const std::function<void()>& work) {
  std::exception_ptr failure;
  std::string report;  // "<exit code> <message>", empty when all is well
  try {
    work();
  } catch (const Error& error) {
    failure = std::current_exception();
    report = concat(static_cast<int>(error.exit_code()), " ", error.what());
  } catch (const std::exception& error) {
    failure = std::current_exception();
    report = concat("0 ", error.what());
  }
  const std::vector<std::string> reports = all_gather_text(communicator, report);
  if (failure) std::rethrow_exception(failure);
  for (std::size_t rank = 0; rank < reports.size(); ++rank) {
    if (reports[rank].empty()) continue;
    const auto space = reports[rank].find(' ');
    throw_like(std::atoi(reports[rank].c_str()),
               concat("rank ", rank, ": ", reports[rank].substr(space + 1)));
  }
}

void run_or_give_up(Communicator& communicator, const std::function<void()>& work) {
  try {
    work();
  } catch (const PeerError&) {
    throw;
  } catch (const std::exception& error) {
    const std::string_view reason = error.what();
    communicator.give_up(std::string(reason.substr(0, reason.find('\n'))));
    throw;
  }
}

}  // namespace fbi::distributed
