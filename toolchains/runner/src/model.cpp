#include "model.h"

#include <unistd.h>
#include <cstdio>
#include <cstring>
#include <mutex>

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/runtime/platform/platform.h>

#include "error.h"

// The wheel ships the thread pool without its header extension/threadpool/threadpool.h; these are
// the two members of it that are used here. Neither is virtual, so the layout does not matter.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t num_threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace edgellm {
namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;

constexpr const char* kMethod = "forward";

// The first error that the runtime logged in this thread: a bare code does not say which operator
// is missing.
thread_local std::string first_log;

void log_message(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t,
                 const char* message, size_t length) {
  if (level != kError && level != kFatal) return;
  std::fprintf(stderr, "executorch: %.*s\n", static_cast<int>(length), message);
  if (first_log.empty()) first_log.assign(message, length);
}

void claim_log() {
  static const bool done = et::register_pal(et::PalImpl::create(&log_message, "edgellm"));
  (void)done;
  first_log.clear();
}

std::string describe(et::Error error) {
  char code[16];
  std::snprintf(code, sizeof code, "0x%x", static_cast<unsigned>(error));
  std::string name = et::to_string(error);
  name = name.substr(name.rfind(':') + 1);
  std::string text = std::string(code) + " " + name;
  if (!first_log.empty()) text += " (" + first_log + ")";
  return text;
}

// One pool per process: who uses it, and with how many threads.
std::mutex pool_mutex;
int pool_users = 0;
int pool_threads = 0;

void join_pool(int threads) {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  if (pool_users > 0 && pool_threads != threads) {
    throw Error(Kind::kUsage, "An artifact is open with " + std::to_string(pool_threads) +
                                  " threads, and all of a process share them; " +
                                  std::to_string(threads) + " were asked for.");
  }
  if (pool_users == 0) {
    namespace pool = executorch::extension::threadpool;
    pool::ThreadPool* shared = pool::get_threadpool();
    const auto count = static_cast<uint32_t>(threads);
    // Whatever the environment says, it has a thread per core until it is reset.
    if (shared == nullptr ||
        (shared->get_thread_count() != count && !shared->_unsafe_reset_threadpool(count)) ||
        shared->get_thread_count() != count) {
      throw Error(Kind::kDevice,
                  "ExecuTorch's pool does not take " + std::to_string(threads) + " threads.");
    }
    pool_threads = threads;
  }
  ++pool_users;
}

void leave_pool() {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  --pool_users;
}

struct PoolUse {
  explicit PoolUse(int threads) { join_pool(threads); }
  ~PoolUse() { leave_pool(); }
  PoolUse(const PoolUse&) = delete;
  PoolUse& operator=(const PoolUse&) = delete;
};

}  // namespace

struct Model::Program {
  Program(std::string name, File loaded, const Signature& signature, int threads)
      : name(std::move(name)), pool(threads), file(std::move(loaded)), signature(signature) {}

  std::string name;
  PoolUse pool;
  File file;  // the module reads from it as long as it lives
  const Signature signature;
  std::unique_ptr<executorch::extension::Module> module;
  std::vector<std::vector<int32_t>> narrow;  // inputs that the artifact takes as int32
};

Model::Model(const std::string& name, File file, const Signature& signature, int threads) {
  claim_log();
  program_ = std::make_unique<Program>(name, std::move(file), signature, threads);
  Program& p = *program_;
  p.narrow.resize(signature.inputs.size());
  auto loader =
      std::make_unique<executorch::extension::BufferDataLoader>(p.file.data(), p.file.size());
  p.module = std::make_unique<executorch::extension::Module>(std::move(loader));
  et::Error error = p.module->load(et::Program::Verification::InternalConsistency);
  if (error == et::Error::Ok) error = p.module->load_method(kMethod);
  if (error != et::Error::Ok) {
    throw Error(Kind::kBundle, "ExecuTorch can't load " + name + ": " + describe(error) + ".",
                "0x14 means an operator its runtime lacks, 0x20 a backend it lacks, 0x23 a damaged "
                "file.");
  }
  const auto meta = p.module->method_meta(kMethod);
  bool fits = meta.ok() && meta->num_inputs() == signature.inputs.size() &&
              meta->num_outputs() == signature.outputs.size();
  for (size_t i = 0; fits && i < signature.inputs.size(); ++i) {
    const auto tensor = meta->input_tensor_meta(i);
    const auto wanted = signature.inputs[i].wide ? ScalarType::Long : ScalarType::Int;
    fits = tensor.ok() && tensor->scalar_type() == wanted && tensor->sizes().size() == 2;
  }
  for (size_t i = 0; fits && i < signature.outputs.size(); ++i) {
    const auto tensor = meta->output_tensor_meta(i);
    fits = tensor.ok() && tensor->scalar_type() == ScalarType::Float;
  }
  if (!fits) {
    throw Error(Kind::kBundle, name + " takes or gives other tensors than the manifest says.",
                "Build the bundle again.");
  }
}

Model::~Model() = default;

std::vector<Output> Model::run(const std::vector<std::vector<int64_t>>& inputs, int64_t tokens) {
  Program& p = *program_;
  first_log.clear();
  // TensorImpl itself and not extension/tensor's pointers: they hold a std::function each.
  using executorch::aten::TensorImpl;
  TensorImpl::SizesType sizes[] = {1, static_cast<TensorImpl::SizesType>(tokens)};
  TensorImpl::DimOrderType order[] = {0, 1};
  TensorImpl::StridesType strides[] = {sizes[1], 1};
  std::vector<TensorImpl> tensors;
  tensors.reserve(inputs.size());  // values point into it
  std::vector<et::EValue> values;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool wide = p.signature.inputs[i].wide;
    if (!wide) p.narrow[i].assign(inputs[i].begin(), inputs[i].end());
    // The runtime copies inputs into its own memory, or reads them where they are.
    void* data = wide ? static_cast<void*>(const_cast<int64_t*>(inputs[i].data()))
                      : static_cast<void*>(p.narrow[i].data());
    tensors.emplace_back(wide ? ScalarType::Long : ScalarType::Int, 2, sizes, data, order, strides);
    values.emplace_back(executorch::aten::Tensor(&tensors.back()));
  }
  const auto result = p.module->execute(kMethod, values);
  if (!result.ok()) {
    throw Error(Kind::kDevice, "ExecuTorch failed to run: " + describe(result.error()) + ".");
  }
  std::vector<Output> outputs(result->size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto& value = (*result)[i];
    if (!value.isTensor() || value.toTensor().scalar_type() != ScalarType::Float) {
      throw Error(Kind::kDevice,
                  "Output " + std::to_string(i) + " of " + p.name + " is no float32.");
    }
    const auto& tensor = value.toTensor();
    outputs[i].name = p.signature.outputs[i].name;
    outputs[i].shape.assign(tensor.sizes().begin(), tensor.sizes().end());
    const auto* data = tensor.const_data_ptr<float>();
    outputs[i].values.assign(data, data + tensor.numel());
  }
  return outputs;
}

const char* executorch_version() { return EDGELLM_EXECUTORCH_VERSION; }

}  // namespace edgellm
