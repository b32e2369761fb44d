// edgellm-runner: runs the ExecuTorch artifact of a bundle where there is no Python.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "commands.h"
#include "error.h"
#include "protocol.h"

namespace edgellm {
namespace {

constexpr const char* kHelp =
    R"(Runs the ExecuTorch artifact of an edgellm bundle. It takes ids: it has no tokenizer.

  edgellm-runner [serve]       the worker's JSON lines, from standard input to standard output
  edgellm-runner golden BUNDLE [--artifact ID] [--cases N] [--threads N] [--json]
                               run golden ids, and compare with the fp32 model; exit code 5 when
                               they agree by less than the bundle's gate
  edgellm-runner ids BUNDLE [--artifact ID] [--threads N]
                               one text a line on standard input, as ids separated by spaces; one
                               line of JSON each
  edgellm-runner bench BUNDLE --tokens N [--artifact ID] [--runs N] [--warmup N] [--threads N] [--json]
                               latency on this machine
  edgellm-runner --version | --help

Exit codes: 0 done, 2 usage, 3 input, 5 gate, 6 bundle, 7 device, 70 an error inside the runner.
)";

int64_t whole(const std::string& option, const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const long long number = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0) {
    throw Error(Kind::kUsage, option + " takes a whole number, not '" + text + "'.");
  }
  return number;
}

// `allowed`: the options of the command.
Options parse(const std::vector<std::string>& words, const std::set<std::string>& allowed) {
  Options options;
  bool has_bundle = false;
  for (size_t i = 1; i < words.size(); ++i) {
    std::string word = words[i], value;
    bool has_value = false;
    const size_t equals = word.find('=');
    if (word.compare(0, 2, "--") == 0 && equals != std::string::npos) {
      value = word.substr(equals + 1);
      word = word.substr(0, equals);
      has_value = true;
    }
    if (word.compare(0, 2, "--") != 0) {
      if (has_bundle) throw Error(Kind::kUsage, "There is one bundle too many: '" + word + "'.");
      options.bundle = word;
      has_bundle = true;
      continue;
    }
    if (allowed.count(word) == 0) {
      throw Error(Kind::kUsage, "'" + words[0] + "' has no option '" + word + "'.",
                  "'edgellm-runner --help' lists all.");
    }
    if (word == "--json") {
      if (has_value) throw Error(Kind::kUsage, "--json takes no value.");
      options.json = true;
      continue;
    }
    if (!has_value) {
      if (++i == words.size()) throw Error(Kind::kUsage, word + " needs a value.");
      value = words[i];
    }
    if (word == "--artifact") {
      options.artifact = value;
      continue;
    }
    const int64_t number = whole(word, value);
    if (word == "--threads") options.threads = number;
    if (word == "--cases") options.cases = number;
    if (word == "--tokens") options.tokens = number;
    if (word == "--runs") options.runs = number;
    if (word == "--warmup") options.warmup = number;
    if (word == "--cases" && number < 1) throw Error(Kind::kUsage, "--cases is 1 or more.");
  }
  if (!has_bundle) throw Error(Kind::kUsage, "'" + words[0] + "' needs a bundle.");
  return options;
}

int run(const std::vector<std::string>& words) {
  if (words.empty() || (words.size() == 1 && words[0] == "serve")) return serve();
  const std::string& command = words[0];
  if (command == "--version") {
    std::printf("%s\n", engine().c_str());
    return 0;
  }
  const auto asks = [](const std::string& word) { return word == "--help" || word == "-h"; };
  if (std::any_of(words.begin(), words.end(), asks)) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (command == "golden") {
    return golden(parse(words, {"--artifact", "--cases", "--threads", "--json"}));
  }
  if (command == "ids") return ids(parse(words, {"--artifact", "--threads"}));
  if (command == "bench") {
    return bench(
        parse(words, {"--artifact", "--tokens", "--runs", "--warmup", "--threads", "--json"}));
  }
  throw Error(Kind::kUsage, "No command '" + command + "'. Choices: bench, golden, ids, serve.",
              "'edgellm-runner --help' says what they do.");
}

// What was printed may still be in a buffer, or lost already.
bool printed() { return std::fflush(stdout) == 0 && std::ferror(stdout) == 0; }

int complain(int code, const std::string& text) {
  std::fprintf(stderr, "edgellm-runner: %s\n", text.c_str());
  return code;
}

}  // namespace
}  // namespace edgellm

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a write that fails says so
  try {
    const int code = edgellm::run(std::vector<std::string>(argv + 1, argv + argc));
    if (!edgellm::printed()) return edgellm::complain(7, "Standard output can't be written to.");
    return code;
  } catch (const edgellm::Error& error) {
    return edgellm::complain(error.exit_code(), error.text());
  } catch (const std::bad_alloc&) {
    return edgellm::complain(7, "Memory ran out.");
  } catch (const std::exception& error) {
    return edgellm::complain(70, error.what());
  }
}
