// A file of the bundle. It is used from memory only, so that what was hashed is what is used: a
// mapping would show what is written to the file later.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

namespace edgellm {

class File {
 public:
  // Opens it; `shown` is its name in messages. Throws Error(kBundle) when `path` is no regular file
  // that can be read.
  File(const std::string& path, const std::string& shown);
  ~File();
  File(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  File& operator=(File&&) = delete;

  size_t size() const { return size_; }

  // Reads all of it, once. Throws Error(kBundle).
  void load();

  // What was loaded, aligned to 4 KiB: programs want their segments aligned.
  const void* data() const { return data_.get(); }
  std::string_view text() const { return {static_cast<const char*>(data_.get()), size_}; }

 private:
  File(int fd, std::string shown);

  std::string shown_;
  int fd_;
  size_t size_ = 0;
  std::unique_ptr<void, decltype(&std::free)> data_{nullptr, &std::free};
};

}  // namespace edgellm
