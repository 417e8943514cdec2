#include "fbi/distributed/communicator.h"

namespace fbi::distributed {
namespace {

std::int64_t bytes_of(const at::Tensor& tensor) {
  return static_cast<std::int64_t>(tensor.nbytes());
}

}  // namespace

std::string_view to_string(Payload payload) {
  switch (payload) {
    case Payload::kGradients:
      return "gradients";
    case Payload::kBits:
      return "bits";
    case Payload::kValues:
      return "values";
    case Payload::kScales:
      return "scales";
    case Payload::kTeacher:
      return "teacher";
    case Payload::kControl:
      break;
  }
  return "control";
}

std::unique_ptr<Work> Communicator::all_reduce(at::Tensor& tensor, Reduce op, Payload payload) {
  count(payload, 2 * (size() - 1) * bytes_of(tensor) / size());
  return start_all_reduce(tensor, op);
}

std::unique_ptr<Work> Communicator::reduce_scatter(at::Tensor& output, const at::Tensor& input,
                                                   Payload payload) {
  count(payload, (size() - 1) * bytes_of(output));
  return start_reduce_scatter(output, input);
}

std::unique_ptr<Work> Communicator::all_gather(at::Tensor& output, const at::Tensor& input,
                                               Payload payload) {
  count(payload, (size() - 1) * bytes_of(input));
  return start_all_gather(output, input);
}

}  // namespace fbi::distributed
