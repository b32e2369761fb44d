// Lines from a descriptor, of bounded length.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace edgellm {

struct Line {
  std::string text;
  bool too_long = false;  // the text is empty, the rest of the line was skipped
};

class LineReader {
 public:
  LineReader(int fd, size_t longest) : fd_(fd), longest_(longest), buffer_(1 << 16) {}

  // The next line without its end; false at the end of the input. A last line needs no newline.
  // Throws Error(kDevice).
  bool next(Line& line);

 private:
  int fd_;
  size_t longest_;
  std::vector<char> buffer_;
  size_t start_ = 0;
  size_t end_ = 0;
};

}  // namespace edgellm
