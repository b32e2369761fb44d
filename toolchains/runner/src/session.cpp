#include "session.h"

#include <algorithm>
#include <chrono>

#include "error.h"

namespace edgellm {
namespace {

constexpr int kMaxThreads = 128;

std::string join(std::vector<std::string> words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

// Drops what padding added behind axis 1 of [1, tokens, ...].
void crop(Output& output, int64_t tokens) {
  if (output.shape.size() < 2 || output.shape[0] != 1 || output.shape[1] <= tokens) return;
  const size_t row = output.values.size() / static_cast<size_t>(output.shape[1]);
  output.shape[1] = tokens;
  output.values.resize(row * static_cast<size_t>(tokens));
}

}  // namespace

Session::Session(const std::string& bundle, const std::string& wanted, int64_t threads)
    : bundle_(bundle),
      artifact_(bundle_.artifact(wanted)),
      threads_(static_cast<int>(threads)) {
  if (threads < 1 || threads > kMaxThreads) {
    throw Error(Kind::kUsage, std::to_string(threads) + " threads can't compute; from 1 to " +
                                  std::to_string(kMaxThreads) + " can.");
  }
  File file = bundle_.use(artifact_.file);
  const double start = now_ms();
  model_ = std::make_unique<Model>(artifact_.file, std::move(file), artifact_.signature, threads_);
  load_ms_ = now_ms() - start;
  padded_.resize(artifact_.signature.inputs.size());
}

const std::vector<Output>& Session::infer(const std::vector<Feed>& feeds) {
  outputs_.clear();
  const Signature& signature = artifact_.signature;
  const int64_t tokens = check(feeds);
  const int64_t length = signature.tokens_for(tokens);
  for (size_t i = 0; i < ordered_.size(); ++i) {
    const std::vector<int64_t>& values = ordered_[i]->values;
    padded_[i].assign(static_cast<size_t>(length), signature.inputs[i].pad);
    std::copy(values.begin(), values.end(), padded_[i].begin());
  }
  std::vector<Output> outputs = model_->run(padded_, length);
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (signature.outputs[i].per_token) crop(outputs[i], tokens);
  }
  outputs_ = std::move(outputs);
  return outputs_;
}

// Returns the length. Engines fail opaquely or read out of bounds on bad feeds.
int64_t Session::check(const std::vector<Feed>& feeds) {
  const std::vector<InputSpec>& inputs = artifact_.signature.inputs;
  std::vector<std::string> names, given;
  for (const InputSpec& spec : inputs) names.push_back(spec.name);
  for (const Feed& feed : feeds) given.push_back(feed.name);
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  std::sort(given.begin(), given.end());
  if (sorted != given) {
    throw Error(Kind::kInput, "The artifact takes " + join(names) + ", not " +
                                  (given.empty() ? "nothing" : join(given)) + ".");
  }
  ordered_.clear();
  int64_t tokens = 0;
  for (const InputSpec& spec : inputs) {
    const Feed& feed = *std::find_if(feeds.begin(), feeds.end(),
                                     [&](const Feed& one) { return one.name == spec.name; });
    if (feed.dtype != "int64") {
      throw Error(Kind::kInput, spec.name + " has dtype " + feed.dtype + "; int64 is needed.");
    }
    if (feed.shape.size() != 2 || feed.shape[0] != 1 || feed.shape[1] == 0) {
      throw Error(Kind::kInput,
                  spec.name + " has shape " + shape_text(feed.shape) + "; [1, tokens] is needed.");
    }
    if (tokens != 0 && tokens != feed.shape[1]) {
      throw Error(Kind::kInput, spec.name + " has " + std::to_string(feed.shape[1]) + " tokens, " +
                                    names[0] + " has " + std::to_string(tokens) + ".");
    }
    tokens = feed.shape[1];
    const auto [low, high] = std::minmax_element(feed.values.begin(), feed.values.end());
    if (*low < 0 || *high >= spec.bound) {
      throw Error(Kind::kInput, spec.name + " holds " + std::to_string(*low < 0 ? *low : *high) +
                                    "; 0 to " + std::to_string(spec.bound - 1) + " is valid.");
    }
    ordered_.push_back(&feed);
  }
  check_length(static_cast<uint64_t>(tokens));
  return tokens;
}

void Session::check_length(uint64_t tokens) {
  outputs_.clear();
  if (tokens > static_cast<uint64_t>(bundle_.max_tokens())) {
    throw Error(Kind::kInput, std::to_string(tokens) + " tokens exceed the bundle's " +
                                  std::to_string(bundle_.max_tokens()) + ".");
  }
}

std::vector<Feed> Session::feeds_of(std::vector<int64_t> ids) const {
  const auto tokens = static_cast<int64_t>(ids.size());
  std::vector<Feed> feeds;
  for (const InputSpec& spec : artifact_.signature.inputs) {
    std::vector<int64_t> values;
    if (spec.name == "input_ids") {
      values = ids;
    } else {
      values.assign(ids.size(), spec.name == "attention_mask" ? 1 : 0);
    }
    feeds.push_back({spec.name, {1, tokens}, std::move(values)});
  }
  return feeds;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> words;
  for (const int64_t n : shape) words.push_back(std::to_string(n));
  return "[" + join(words) + "]";
}

std::string version() {
  return std::string(EDGELLM_VERSION) + " (executorch " + executorch_version() + ")";
}

double now_ms() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double, std::milli>(Clock::now().time_since_epoch()).count();
}

}  // namespace edgellm
