#include "file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <utility>

#include "error.h"

namespace edgellm {
namespace {

[[noreturn]] void fail(const std::string& shown, const char* why) {
  throw Error(Kind::kBundle, shown + " can't be read: " + why + ".", "Copy or build it again.");
}

// Closes a descriptor when it goes out of scope.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path, const std::string& shown) {
  // O_NONBLOCK: a pipe in place of the file must not make us wait for a writer.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail(shown, std::strerror(errno));
  struct stat facts{};
  if (fstat(file.fd, &facts) != 0) fail(shown, std::strerror(errno));
  if (S_ISDIR(facts.st_mode)) fail(shown, std::strerror(EISDIR));
  if (!S_ISREG(facts.st_mode)) fail(shown, "it is no regular file");
  size_ = static_cast<size_t>(facts.st_size);
  if (size_ == 0) return;
  void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (mapped == MAP_FAILED) fail(shown, std::strerror(errno));
  data_ = mapped;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

}  // namespace edgellm
