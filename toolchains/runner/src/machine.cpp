#include "machine.h"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <sstream>

namespace edgellm {
namespace {

// By which int8 kernels are chosen, as /proc/cpuinfo names them; edgellm/runtime/machine.py has the
// same list.
constexpr const char* kFeatures[] = {
    "avx2",  "avx512f", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8", "amx_tile",
    "asimd", "asimdhp", "asimddp",  "i8mm",     "sve",         "sve2",     "bf16",
};

std::string trim(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

std::map<std::string, std::string> read_fields(const char* path) {
  std::map<std::string, std::string> fields;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    fields.emplace(trim(line.substr(0, colon)), trim(line.substr(colon + 1)));
  }
  return fields;
}

std::string cpu_name(const std::map<std::string, std::string>& fields) {
  for (const char* key : {"model name", "Model"}) {
    const auto found = fields.find(key);
    if (found != fields.end() && !found->second.empty()) return found->second;
  }
  const auto part = fields.find("CPU part"), implementer = fields.find("CPU implementer");
  if (part == fields.end()) return "unknown CPU";
  // Arm's part numbers, where the kernel gives no name; edgellm/runtime/machine.py has the same.
  static const std::map<std::string, std::string> kParts = {
      {"0xd03", "Cortex-A53"}, {"0xd08", "Cortex-A72"}, {"0xd0b", "Cortex-A76"}};
  const auto known = kParts.find(part->second);
  if (implementer != fields.end() && implementer->second == "0x41" && known != kParts.end()) {
    return known->second;
  }
  return "implementer " + (implementer == fields.end() ? "?" : implementer->second) + " part " +
         part->second;
}

OrderedJson features(const std::map<std::string, std::string>& fields) {
  std::string flags;
  for (const char* key : {"flags", "Features"}) {
    const auto found = fields.find(key);
    if (found != fields.end()) flags += " " + found->second + " ";
  }
  OrderedJson found = OrderedJson::array();
  for (const std::string feature : kFeatures) {
    if (flags.find(" " + feature + " ") != std::string::npos) found.push_back(feature);
  }
  return found;
}

int cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

}  // namespace

OrderedJson machine() {
  const auto fields = read_fields("/proc/cpuinfo");
  utsname system{};
  uname(&system);
  // Set by whatever starts an emulator, which shows the host's governor and load.
  const char* told = std::getenv("EDGELLM_EMULATED");
  const bool emulated = told != nullptr && std::string(told) == "1";
  OrderedJson governor, load;
  if (!emulated) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    std::string line;
    if (std::getline(file, line)) governor = trim(line);
#if !defined(__ANDROID__) || __ANDROID_API__ >= 29
    double average = 0;
    if (getloadavg(&average, 1) == 1) load = std::round(average * 100) / 100;
#endif
  }
  return {{"cpu", cpu_name(fields)},
          {"arch", system.machine},
          {"cores", cores()},
          {"features", features(fields)},
          {"governor", governor},
          {"load", load},
          {"system", std::string(system.sysname) + " " + system.release},
          {"python", ""},
          {"emulated", emulated}};
}

double cpu_ms() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

double peak_rss_mb() {
  // VmHWM and not getrusage: ru_maxrss survives exec, and so may be the parent's.
  const auto fields = read_fields("/proc/self/status");
  const auto found = fields.find("VmHWM");
  return found == fields.end() ? 0 : std::strtod(found->second.c_str(), nullptr) * 1024 / 1e6;
}

}  // namespace edgellm
