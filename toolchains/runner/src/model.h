// The artifact itself, in ExecuTorch's runtime.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"

namespace edgellm {

struct Output {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

class Model {
 public:
  // Sets the process's compute threads, then loads. `name` is the file's name in messages.
  // Throws Error(kBundle): the runtime can't load the file, or it is not what the signature says.
  // Throws Error(kUsage): another model is open with another number of threads.
  Model(const std::string& name, File file, const Signature& signature, int threads);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // One forward pass over inputs in the signature's order, each `tokens` long.
  // Throws Error(kDevice).
  std::vector<Output> run(const std::vector<std::vector<int64_t>>& inputs, int64_t tokens);

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

// "1.5.1": the ExecuTorch it was built with.
const char* executorch_version();

}  // namespace edgellm
