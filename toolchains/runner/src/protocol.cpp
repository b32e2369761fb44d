#include "protocol.h"

#include <poll.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>

#include "error.h"
#include "json.h"
#include "lines.h"
#include "machine.h"
#include "session.h"

namespace edgellm {
namespace {

constexpr int kProtocol = 1;
constexpr size_t kLongestLine = size_t{16} << 20;
constexpr size_t kMostAxes = 32;
constexpr const char* kOps = "open, infer, time, usage";

// Reads a nested array as NumPy would: its shape, its values, and what type they have.
void read_array(const Json& value, size_t axis, Feed& feed) {
  if (!value.is_array()) {
    if (axis != feed.shape.size()) throw JsonError{feed.name + " is no regular array"};
    if (!is_integer(value)) {
      feed.dtype = value.is_number() ? "float64" : value.is_boolean() ? "bool" : "object";
      return;
    }
    const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX;
    feed.values.push_back(huge ? INT64_MAX : value.get<int64_t>());
    return;
  }
  if (axis == feed.shape.size()) {
    // Only the first path down may find out how many axes there are.
    if (!feed.values.empty() || feed.dtype != "int64" || axis == kMostAxes) {
      throw JsonError{feed.name + " is no regular array"};
    }
    feed.shape.push_back(static_cast<int64_t>(value.size()));
  } else if (feed.shape[axis] != static_cast<int64_t>(value.size())) {
    throw JsonError{feed.name + " is no regular array"};
  }
  for (const Json& item : value) read_array(item, axis + 1, feed);
}

std::vector<Feed> read_feeds(const Json& request) {
  const Json& data = member(request, "feeds");
  if (!data.is_object()) throw JsonError{"'feeds' is no object of input names"};
  std::vector<Feed> feeds;
  for (const auto& [name, rows] : data.items()) {
    Feed feed{name, {}, {}};
    read_array(rows, 0, feed);
    feeds.push_back(std::move(feed));
  }
  return feeds;
}

class Worker {
 public:
  std::string reply(const Line& line) {
    try {
      if (line.too_long) throw JsonError{"it is longer than 16 MiB"};
      const Json request = parse_json(line.text);
      const auto op = request.is_object() ? request.find("op") : request.end();
      const std::string name = request.is_object() && op != request.end() && op->is_string()
                                   ? op->get<std::string>()
                                   : "";
      if (name == "open") return open(request);
      if (name == "infer") return infer(request);
      if (name == "time") return time(request);
      if (name == "usage") return usage();
      if (name == "run") throw no_tokenizer();
      throw Error(Kind::kUsage,
                  std::string("A request is an object whose op is one of ") + kOps + ".");
    } catch (const Error& error) {
      return error_text(error);
    } catch (const JsonError& error) {
      return error_text(Error(Kind::kInput, "The request is wrong: " + error.what + "."));
    } catch (const std::bad_alloc&) {
      return error_text(Error(Kind::kDevice, "Memory ran out."));
    } catch (const std::exception& error) {
      return error_text(Error(Kind::kInternal, error.what()));
    }
  }

 private:
  static Error no_tokenizer() {
    return Error(Kind::kUsage, "The native runner has no tokenizer, so it can't take raw text.",
                 "Send ids: op infer or time, with feeds.");
  }

  Session& session() {
    if (!session_) {
      throw Error(Kind::kUsage, "No artifact is open: send an open request first.");
    }
    return *session_;
  }

  std::string open(const Json& request) {
    if (session_) {
      throw Error(Kind::kUsage, "A worker holds one artifact; start another worker for the next.");
    }
    const int64_t threads = request.contains("threads") ? integer_at(request, "threads") : 1;
    session_ = std::make_unique<Session>(text_at(request, "bundle"), text_at(request, "artifact"),
                                         threads);
    return dump({{"protocol", kProtocol},
                 {"engine", engine()},
                 {"load_ms", session_->load_ms()},
                 {"machine", machine()}});
  }

  std::string infer(const Json& request) {
    Session& opened = session();
    const std::vector<Feed> feeds = read_feeds(request);
    const double start = now_ms();
    const std::vector<Output>& outputs = opened.infer(feeds);
    const double took = now_ms() - start;
    const OrderedJson timing = {{"tokenize_ms", 0.0}, {"inference_ms", took}};
    return outputs_text(outputs) + ",\"timing\":" + dump(timing) + "}";
  }

  // Times a block of runs. The clock runs here, so that the pipe is not part of any figure.
  std::string time(const Json& request) {
    Session& opened = session();
    if (request.contains("input")) {
      if (!request.contains("feeds")) throw no_tokenizer();
      throw Error(Kind::kUsage, "A time request has either feeds or an input.");
    }
    const std::vector<Feed> feeds = read_feeds(request);
    const int64_t warmup = request.contains("warmup") ? integer_at(request, "warmup") : 0;
    const int64_t runs = integer_at(request, "runs");
    for (int64_t i = 0; i < warmup; ++i) opened.infer(feeds);
    std::vector<double> inference;
    const double cpu = cpu_ms();
    for (int64_t i = 0; i < runs; ++i) {
      const double start = now_ms();
      opened.infer(feeds);
      inference.push_back(now_ms() - start);
    }
    const double spent = cpu_ms() - cpu;
    const int64_t tokens = runs > 0 ? feeds[0].shape[1] : 0;
    return dump({{"tokens", tokens},
                 {"tokenize_ms", std::vector<double>(inference.size(), 0.0)},
                 {"inference_ms", inference},
                 {"cpu_ms", spent},
                 {"peak_rss_mb", peak_rss_mb()}});
  }

  // What this process has used since it began. The Python worker asks when the runner is its
  // engine.
  static std::string usage() {
    return dump({{"cpu_ms", cpu_ms()}, {"peak_rss_mb", peak_rss_mb()}});
  }

  std::unique_ptr<Session> session_;
};

void write_all(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      pollfd wait{fd, POLLOUT, 0};
      poll(&wait, 1, -1);
      continue;
    }
    if (n < 0) {
      throw Error(Kind::kDevice,
                  std::string("A reply can't be written: ") + std::strerror(errno) + ".");
    }
    done += static_cast<size_t>(n);
  }
}

}  // namespace

int serve() {
  const int replies = dup(1);
  if (replies < 0 || dup2(2, 1) < 0) {
    throw Error(Kind::kDevice, "Standard output and standard error must both be open.");
  }
  Worker worker;
  LineReader reader(0, kLongestLine);
  for (Line line; reader.next(line);) {
    write_all(replies, worker.reply(line) + "\n");
  }
  return 0;
}

std::string outputs_text(const std::vector<Output>& outputs) {
  std::string text = "{\"outputs\":{";
  for (const Output& output : outputs) {
    if (&output != outputs.data()) text += ',';
    text += dump(output.name) + ':';
    append_floats(text, output.values.data(), output.shape);
  }
  return text + '}';
}

std::string error_text(const Error& error) {
  return dump(
      {{"error", {{"kind", error.kind_name()}, {"message", error.message}, {"hint", error.hint}}}});
}

std::string engine() { return "edgellm-runner " + version(); }

}  // namespace edgellm
