// One artifact of a bundle, opened: checks feeds, pads them, runs. As edgellm/runtime/session.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "model.h"

namespace edgellm {

// One input as a caller gave it, of any shape and type.
struct Feed {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<int64_t> values;
  std::string dtype = "int64";  // another name makes the check fail with it
};

class Session {
 public:
  // `wanted`: an artifact id, a format, or "" for the first that can run here.
  Session(const std::string& bundle, const std::string& wanted, int64_t threads);

  // One forward pass over unpadded feeds [1, tokens]. The outputs stay until the next run, which
  // discards them even if it fails.
  // Throws Error(kInput): a name, shape, dtype, length or id does not fit the signature.
  const std::vector<Output>& infer(const std::vector<Feed>& feeds);

  // The feeds of one text from its ids: the mask is all ones, the token types all zeros.
  std::vector<Feed> feeds_of(std::vector<int64_t> ids) const;

  // Throws Error(kInput) if a text is too long to run, and discards the outputs as a run does.
  void check_length(uint64_t tokens);

  const Bundle& bundle() const { return bundle_; }
  const Artifact& artifact() const { return artifact_; }
  const std::vector<Output>& outputs() const { return outputs_; }
  int threads() const { return threads_; }
  // Time to open the artifact; checking its hash is not in it.
  double load_ms() const { return load_ms_; }

 private:
  int64_t check(const std::vector<Feed>& feeds);

  Bundle bundle_;
  Artifact artifact_;
  int threads_;
  double load_ms_ = 0;
  std::unique_ptr<Model> model_;
  std::vector<const Feed*> ordered_;          // the feeds in the signature's order
  std::vector<std::vector<int64_t>> padded_;  // kept, so that a run allocates little
  std::vector<Output> outputs_;
};

// "[1, 384]".
std::string shape_text(const std::vector<int64_t>& shape);

// "edgellm-runner 0.1.0 (executorch 1.5.1)" without its first word.
std::string version();

// Milliseconds of a clock that only goes forward.
double now_ms();

}  // namespace edgellm
