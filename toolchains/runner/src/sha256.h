// SHA-256 as FIPS 180-4 states it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace edgellm {

class Sha256 {
 public:
  Sha256();
  void update(const void* data, size_t size);
  // Returns the digest in hex; nothing may be added after it.
  std::string hex();

 private:
  void block(const uint8_t* bytes);

  uint32_t state_[8];
  uint8_t pending_[64];
  size_t pending_size_ = 0;
  uint64_t total_ = 0;
};

std::string sha256_hex(const void* data, size_t size);

}  // namespace edgellm
