#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "error.h"

namespace edgellm {
namespace {

constexpr size_t kAlignment = 4096;

[[noreturn]] void fail(const std::string& shown, const char* why) {
  throw Error(Kind::kBundle, shown + " can't be read: " + why + ".", "Copy or build it again.");
}

// O_NONBLOCK: a pipe in place of the file must not make us wait for a writer.
int open_checked(const std::string& path, const std::string& shown) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail(shown, std::strerror(errno));
  return fd;
}

}  // namespace

// Delegates, so that the descriptor is closed if the rest throws.
File::File(const std::string& path, const std::string& shown)
    : File(open_checked(path, shown), shown) {
  struct stat facts{};
  if (fstat(fd_, &facts) != 0) fail(shown, std::strerror(errno));
  if (S_ISDIR(facts.st_mode)) fail(shown, std::strerror(EISDIR));
  if (!S_ISREG(facts.st_mode)) fail(shown, "it is no regular file");
  size_ = static_cast<size_t>(facts.st_size);
}

File::File(int fd, std::string shown) : shown_(std::move(shown)), fd_(fd) {}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

File::File(File&& other) noexcept
    : shown_(std::move(other.shown_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(std::exchange(other.size_, 0)),
      data_(std::move(other.data_)) {}

void File::load() {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, size_) != 0) throw std::bad_alloc();
  data_.reset(memory);
  for (size_t done = 0; done < size_;) {
    const ssize_t n = read(fd_, static_cast<char*>(memory) + done, size_ - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(shown_, std::strerror(errno));
    if (n == 0) fail(shown_, "it became shorter");
    done += static_cast<size_t>(n);
  }
  close(std::exchange(fd_, -1));
}

}  // namespace edgellm
