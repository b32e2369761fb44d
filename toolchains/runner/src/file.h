// A file of the bundle, mapped into memory once: what was hashed is what is used.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace edgellm {

class MappedFile {
 public:
  // Throws Error(kBundle) when `path` is no regular file that can be read. `shown` is its name in
  // messages.
  MappedFile(const std::string& path, const std::string& shown);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  const void* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace edgellm
