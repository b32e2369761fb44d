#include "lines.h"

#include <poll.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.h"

namespace edgellm {

bool LineReader::next(Line& line) {
  line = Line();
  bool any = false;
  while (true) {
    if (start_ == end_) {
      const ssize_t n = read(fd_, buffer_.data(), buffer_.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) {  // whoever started us made it non-blocking
        pollfd wait{fd_, POLLIN, 0};
        poll(&wait, 1, -1);
        continue;
      }
      if (n < 0) {
        throw Error(Kind::kDevice,
                    std::string("Standard input can't be read: ") + std::strerror(errno) + ".");
      }
      if (n == 0) return any;
      start_ = 0;
      end_ = static_cast<size_t>(n);
    }
    any = true;
    const char* from = buffer_.data() + start_;
    const char* to = buffer_.data() + end_;
    const char* newline = std::find(from, to, '\n');
    if (!line.too_long) line.text.append(from, newline);
    if (line.text.size() > longest_) {
      line.too_long = true;
      line.text = std::string();
    }
    start_ = static_cast<size_t>(newline - buffer_.data()) + (newline == to ? 0 : 1);
    if (newline != to) return true;
  }
}

}  // namespace edgellm
