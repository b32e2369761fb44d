// Opens a bundle as edgellm/runtime/bundle.py does: paths stay inside it, and a file's size and
// SHA-256 are checked before it is used.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "file.h"

namespace edgellm {

struct InputSpec {
  std::string name;
  bool wide = true;   // int64, else int32
  int64_t bound = 0;  // 0 <= value < bound
  int64_t pad = 0;    // written where a text is shorter than what the artifact takes
};

struct OutputSpec {
  std::string name;
  bool per_token = false;  // axis 1 is the length
};

struct Signature {
  std::vector<InputSpec> inputs;
  std::vector<OutputSpec> outputs;
  std::vector<int64_t> buckets;  // ascending; empty if the length is dynamic
  int64_t min_tokens = 1;

  // The length that a text of `tokens` tokens runs at.
  int64_t tokens_for(int64_t tokens) const;
};

struct Artifact {
  std::string id;
  std::string format;
  std::string file;
  Signature signature;
};

struct FileEntry {
  std::string path;
  uint64_t bytes = 0;
  std::string sha256;
};

struct GoldenCase {
  struct Input {
    std::string name;
    std::vector<int64_t> values;
  };
  std::string text;             // for messages
  std::vector<Input> inputs;    // of the first pass
  std::vector<float> expected;  // its first output, of the fp32 source
  std::vector<int64_t> shape;   // of that output
};

class Bundle {
 public:
  // Throws Error(kBundle): no manifest, a wrong one, or one that names a path outside the folder.
  explicit Bundle(const std::string& folder);

  // A listed file whose size and hash were just checked. Throws Error(kBundle).
  File use(const std::string& name) const;

  // The artifact of that id or format; "" is the first that the runner can run. Throws
  // Error(kUsage).
  const Artifact& artifact(const std::string& wanted) const;

  // The first `limit` golden cases, or all if it is negative. Throws Error(kBundle).
  std::vector<GoldenCase> golden(int64_t limit) const;

  const std::string& folder() const { return folder_; }
  int64_t max_tokens() const { return max_tokens_; }
  double min_agreement() const { return min_agreement_; }
  const std::string& task() const { return task_; }
  // How a classifier's logits become scores: "softmax", "sigmoid" or "none".
  const std::string& scores() const { return scores_; }

 private:
  std::string inside(const std::string& name) const;
  const FileEntry& entry(const std::string& name) const;

  std::string folder_;
  std::string task_;
  std::string scores_;
  int64_t max_tokens_ = 0;
  double min_agreement_ = 0;
  std::vector<FileEntry> files_;
  std::vector<Artifact> artifacts_;
};

}  // namespace edgellm
