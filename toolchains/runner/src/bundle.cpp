#include "bundle.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <tuple>

#include "error.h"
#include "json.h"
#include "sha256.h"

namespace edgellm {
namespace {

constexpr int64_t kSchemaVersion = 1;
constexpr const char* kManifest = "manifest.json";
constexpr const char* kGolden = "golden.jsonl";
constexpr const char* kFormat = "executorch";
constexpr size_t kLargestManifest = size_t{16} << 20;
constexpr size_t kLongestCase = size_t{64} << 20;
constexpr const char* kRebuild = "Copy or build it again.";

// The real path, links followed; "" if there is none, and errno says why.
std::string resolve(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr),
                                                         &std::free);
  return real ? real.get() : "";
}

// Whether a manifest may name it: relative, normal, and the same on every system.
bool plain(const std::string& name) {
  if (name.empty() || name == kManifest || name[0] == '/') return false;
  if (name.find_first_of(std::string("\\:\0", 3)) != std::string::npos) return false;
  for (size_t start = 0; start <= name.size();) {
    const size_t slash = std::min(name.find('/', start), name.size());
    const std::string part = name.substr(start, slash - start);
    if (part.empty() || part == "." || part == "..") return false;
    start = slash + 1;
  }
  return true;
}

bool is_length(const Json& dimension) {
  return dimension.is_string() && dimension.get_ref<const std::string&>() == "tokens";
}

Signature read_signature(const Json& data) {
  Signature signature;
  for (const Json& item : array_at(data, "inputs")) {
    InputSpec spec;
    spec.name = text_at(item, "name");
    const std::string& dtype = text_at(item, "dtype");
    spec.bound = integer_at(item, "bound");
    spec.pad = integer_at(item, "pad");
    spec.wide = dtype == "int64";
    if (!spec.wide && dtype != "int32") {
      throw JsonError{"dtype: '" + dtype + "' is none of int64, int32"};
    }
    if (spec.name != "input_ids" && spec.name != "attention_mask" &&
        spec.name != "token_type_ids") {
      throw JsonError{"name: no input is called '" + spec.name + "'"};
    }
    if (spec.pad < 0 || spec.pad >= spec.bound || spec.bound > int64_t{1} << 31) {
      throw JsonError{"pad: that of " + spec.name + " does not lie below its bound"};
    }
    signature.inputs.push_back(std::move(spec));
  }
  for (const Json& item : array_at(data, "outputs")) {
    const Json& shape = array_at(item, "shape");
    if (text_at(item, "dtype") != "float32") throw JsonError{"outputs: float32 is the only dtype"};
    signature.outputs.push_back({text_at(item, "name"), shape.size() > 1 && is_length(shape[1])});
  }
  if (signature.inputs.empty() || signature.outputs.empty()) {
    throw JsonError{"inputs and outputs: at least one of each is needed"};
  }
  for (const Json& bucket : array_at(data, "buckets")) {
    const int64_t last = signature.buckets.empty() ? 0 : signature.buckets.back();
    if (!is_integer(bucket) || bucket.get<int64_t>() <= last ||
        bucket.get<int64_t>() > INT32_MAX) {
      throw JsonError{"buckets: lengths are positive and ascend"};
    }
    signature.buckets.push_back(bucket.get<int64_t>());
  }
  signature.min_tokens = integer_at(data, "min_tokens");
  return signature;
}

// Reads a nested array of numbers: what the first path down finds, all others must have.
void read_output(const Json& value, size_t axis, GoldenCase& out) {
  if (!value.is_array()) {
    if (!value.is_number()) throw JsonError{"an output holds something that is no number"};
    if (axis != out.shape.size()) throw JsonError{"an output is no regular array"};
    out.expected.push_back(value.get<float>());
    return;
  }
  const auto size = static_cast<int64_t>(value.size());
  if (axis == out.shape.size() && out.expected.empty()) out.shape.push_back(size);
  if (axis >= out.shape.size() || out.shape[axis] != size) {
    throw JsonError{"an output is no regular array"};
  }
  for (const Json& item : value) read_output(item, axis + 1, out);
}

GoldenCase read_case(std::string_view line, const std::string& output) {
  if (line.size() > kLongestCase) throw JsonError{"it is longer than 64 MiB"};
  const Json data = parse_json(line);
  GoldenCase done;
  const Json& input = member(data, "input");
  done.text = input.is_string() ? input.get<std::string>() : dump(input);
  const Json& feeds = array_at(data, "feeds");
  const Json& outputs = array_at(data, "outputs");
  if (feeds.empty() || outputs.empty()) throw JsonError{"it has no pass"};
  if (!feeds[0].is_object()) throw JsonError{"its feeds are no object"};
  for (const auto& [name, rows] : feeds[0].items()) {
    if (!rows.is_array() || rows.size() != 1 || !rows[0].is_array()) {
      throw JsonError{name + " is not [1, tokens]"};
    }
    std::vector<int64_t> values;
    for (const Json& id : rows[0]) {
      if (!is_integer(id)) throw JsonError{name + " holds something that is no whole number"};
      values.push_back(id.get<int64_t>());
    }
    done.inputs.push_back({name, std::move(values)});
  }
  read_output(array_at(outputs[0], output.c_str()), 0, done);
  if (done.expected.empty()) throw JsonError{"an output is empty"};
  return done;
}

}  // namespace

int64_t Signature::tokens_for(int64_t tokens) const {
  if (buckets.empty()) return std::max(tokens, min_tokens);
  for (const int64_t bucket : buckets) {
    if (tokens <= bucket) return bucket;
  }
  throw Error(Kind::kBundle,
              "The manifest has no bucket for " + std::to_string(tokens) + " tokens.");
}

Bundle::Bundle(const std::string& folder) : folder_(folder) {
  const std::string path = folder + "/" + kManifest;
  const bool nul = folder.find('\0') != std::string::npos;
  if (nul || (resolve(path).empty() && (errno == ENOENT || errno == ENOTDIR))) {
    throw Error(Kind::kBundle, folder + " is no bundle: it has no manifest.json.",
                "'edgellm build' makes one.");
  }
  Json data;
  try {
    File file(path, path);
    if (file.size() > kLargestManifest) throw JsonError{"it is larger than 16 MiB"};
    file.load();
    data = parse_json(file.text());
  } catch (const JsonError& error) {
    throw Error(Kind::kBundle, path + " can't be read: " + error.what + ".", kRebuild);
  }
  const bool has_version = data.is_object() && data.contains("schema_version");
  const Json version = has_version ? data["schema_version"] : Json();
  if (!is_integer(version) || version != kSchemaVersion) {
    throw Error(Kind::kBundle,
                path + " has schema version " + dump(version) + "; this runner reads " +
                    std::to_string(kSchemaVersion) + ".",
                "Install the edgellm that built it, or build it again.");
  }
  std::vector<std::tuple<std::string, uint64_t>> digests;  // of the artifacts, in order
  try {
    task_ = text_at(data, "task");
    scores_ = text_at(member(data, "task_options"), "scores");
    max_tokens_ = integer_at(data, "max_tokens");
    min_agreement_ = number_at(data, "min_agreement");
    if (max_tokens_ < 1 || max_tokens_ > INT32_MAX) throw JsonError{"max_tokens is no length"};
    for (const Json& item : array_at(data, "files")) {
      const int64_t bytes = integer_at(item, "bytes");
      files_.push_back(
          {text_at(item, "path"), static_cast<uint64_t>(bytes), text_at(item, "sha256")});
    }
    for (const Json& item : array_at(data, "artifacts")) {
      Artifact artifact{text_at(item, "id"), text_at(item, "format"), text_at(item, "file"),
                        read_signature(member(item, "signature"))};
      const Signature& signature = artifact.signature;
      if (signature.min_tokens < 1 || signature.min_tokens > max_tokens_) {
        throw JsonError{"min_tokens of " + artifact.id + " is no length up to max_tokens"};
      }
      if (!signature.buckets.empty() && signature.buckets.back() < max_tokens_) {
        throw JsonError{"the buckets of " + artifact.id + " end before max_tokens"};
      }
      digests.emplace_back(text_at(item, "sha256"),
                           static_cast<uint64_t>(integer_at(item, "bytes")));
      artifacts_.push_back(std::move(artifact));
    }
  } catch (const JsonError& error) {
    throw Error(Kind::kBundle, folder + ": manifest.json: " + error.what + ".", kRebuild);
  }
  std::set<std::string> seen;
  for (const FileEntry& file : files_) {
    if (!seen.insert(file.path).second) {
      throw Error(Kind::kBundle, folder + ": a file is listed twice.", kRebuild);
    }
    inside(file.path);
  }
  std::set<std::string> ids;
  for (size_t i = 0; i < artifacts_.size(); ++i) {
    const Artifact& artifact = artifacts_[i];
    inside(artifact.file);
    const FileEntry& listed = entry(artifact.file);
    if (digests[i] != std::tuple(listed.sha256, listed.bytes)) {
      throw Error(Kind::kBundle, folder + ": two digests or sizes for " + artifact.file + ".",
                  kRebuild);
    }
    ids.insert(artifact.id);
  }
  if (ids.empty() || ids.size() != artifacts_.size()) {
    throw Error(Kind::kBundle, folder + ": artifact ids are missing or not unique.", kRebuild);
  }
}

const FileEntry& Bundle::entry(const std::string& name) const {
  for (const FileEntry& file : files_) {
    if (file.path == name) return file;
  }
  throw Error(Kind::kBundle, folder_ + ": " + name + " is not among the files of the manifest.",
              kRebuild);
}

// The real path of a file that the manifest names. A file that does not exist is found when it is
// used: only the chosen artifact has to be on the device.
std::string Bundle::inside(const std::string& name) const {
  if (!plain(name)) {
    throw Error(Kind::kBundle, folder_ + ": the manifest names " + dump(Json(name)) +
                                   ", which is no path inside the bundle.");
  }
  const std::string path = resolve(folder_ + "/" + name);
  std::string root = resolve(folder_);
  if (root != "/") root += '/';
  if (!path.empty() && path.compare(0, root.size(), root) != 0) {
    throw Error(Kind::kBundle, folder_ + ": " + name + " leads out of the bundle.");
  }
  return path.empty() ? folder_ + "/" + name : path;
}

File Bundle::use(const std::string& name) const {
  const FileEntry& listed = entry(name);
  File file(inside(name), folder_ + ": " + name);
  if (file.size() != listed.bytes) {
    throw Error(Kind::kBundle,
                folder_ + ": " + name + " has " + std::to_string(file.size()) +
                    " bytes, the manifest says " + std::to_string(listed.bytes) + ".",
                kRebuild);
  }
  file.load();
  if (sha256_hex(file.data(), file.size()) != listed.sha256) {
    throw Error(Kind::kBundle,
                folder_ + ": " + name + " was altered: its SHA-256 is not the manifest's.",
                kRebuild);
  }
  return file;
}

const Artifact& Bundle::artifact(const std::string& wanted) const {
  const std::string name = wanted.empty() ? kFormat : wanted;
  std::string choices;
  for (const Artifact& artifact : artifacts_) {
    if (artifact.format == kFormat) choices += (choices.empty() ? "" : ", ") + artifact.id;
    if (artifact.id != name && artifact.format != name) continue;
    if (artifact.format == kFormat) return artifact;
    throw Error(Kind::kUsage, "The native runner runs executorch, and " + artifact.id + " is " +
                                  artifact.format + ".");
  }
  throw Error(Kind::kUsage,
              "No format '" + name + "'. Choices: " + (choices.empty() ? "none" : choices) + ".",
              folder_ + " holds no other that the native runner runs.");
}

std::vector<GoldenCase> Bundle::golden(int64_t limit) const {
  const File file = use(kGolden);
  const std::string output = artifact("").signature.outputs[0].name;
  std::vector<GoldenCase> cases;
  std::string_view rest = file.text();
  while (!rest.empty() && (limit < 0 || static_cast<int64_t>(cases.size()) < limit)) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    try {
      cases.push_back(read_case(rest.substr(0, end), output));
    } catch (const JsonError& error) {
      throw Error(Kind::kBundle, folder_ + ": " + kGolden + " line " +
                                     std::to_string(cases.size() + 1) + " is wrong: " + error.what +
                                     ".");
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return cases;
}

}  // namespace edgellm
