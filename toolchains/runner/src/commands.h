// The commands for people: golden, ids, bench.
#pragma once

#include <cstdint>
#include <string>

namespace edgellm {

struct Options {
  std::string bundle;
  std::string artifact;
  int64_t threads = 1;
  int64_t cases = -1;  // golden: all
  int64_t tokens = 0;  // bench
  int64_t runs = 100;
  int64_t warmup = 5;
  bool json = false;
};

// Each returns an exit code, and throws Error.
int golden(const Options& options);
int ids(const Options& options);
int bench(const Options& options);

}  // namespace edgellm
