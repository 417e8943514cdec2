#pragma once

#include <memory>
#include <vector>

#include "cli/verb.h"
#include "fbi/distributed/communicator.h"
#include "fbi/nn/model_folder.h"
#include "fbi/text/tokenizer.h"

namespace fbi::cli {

struct LoadedModel {
  nn::ModelFolder folder;
  std::unique_ptr<nn::LlamaForCausalLM> model;
};

/// --model, --tokenizer, --dtype, --device, --threads: the same for every verb that runs a model.
std::vector<Option> model_options();
/// For verbs that run packed exports, too: UsageError for options of the other kind of model.
void refuse_packed_options(const Arguments& arguments);    ///< --model is no packed export
void refuse_unpacked_options(const Arguments& arguments);  ///< --model is one
LoadedModel load_model(const Arguments& arguments);
/// The same model on all ranks; `local_rank` picks the GPU. Collective.
LoadedModel load_model(const Arguments& arguments, distributed::Communicator& communicator,
                       int local_rank);
/// --tokenizer, else the one that lies with the model. DataError when there is none, or its
/// vocabulary is larger than the model's.
std::unique_ptr<text::Tokenizer> load_model_tokenizer(const Arguments& arguments,
                                                      const nn::ModelFolder& folder);

}  // namespace fbi::cli
