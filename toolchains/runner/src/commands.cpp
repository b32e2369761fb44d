#include "commands.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "error.h"
#include "json.h"
#include "lines.h"
#include "machine.h"
#include "protocol.h"
#include "session.h"

namespace edgellm {
namespace {

constexpr int64_t kRunsForP99 = 100;

// Mean cosine over vectors of `width` values; 0 where a vector is zero, infinite or not a number.
double cosine(const std::vector<float>& a, const std::vector<float>& b, size_t width) {
  double sum = 0;
  for (size_t start = 0; start < a.size(); start += width) {
    double dot = 0, aa = 0, bb = 0;
    for (size_t i = start; i < start + width; ++i) {
      const double x = a[i], y = b[i];
      dot += x * y;
      aa += x * x;
      bb += y * y;
    }
    const double one = dot / (std::sqrt(aa) * std::sqrt(bb));
    sum += std::isfinite(one) ? one : 0;
  }
  return sum / static_cast<double>(a.size() / width);
}

// 1 where the decision is the same, else 0; for regression 1 minus the distance, at least 0.
double decision(const std::vector<float>& a, const std::vector<float>& b,
                const std::string& scores) {
  if (!std::all_of(b.begin(), b.end(), [](float x) { return std::isfinite(x); })) return 0;
  if (scores == "softmax") {
    return std::max_element(a.begin(), a.end()) - a.begin() ==
                   std::max_element(b.begin(), b.end()) - b.begin()
               ? 1
               : 0;
  }
  double distance = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (scores == "sigmoid" && (a[i] > 0) != (b[i] > 0)) return 0;
    distance = std::max(distance, std::fabs(static_cast<double>(a[i]) - b[i]));
  }
  return scores == "sigmoid" ? 1 : std::max(0.0, 1.0 - distance);
}

// Linear interpolation between closest ranks, as edgellm/core/latency.py.
double percentile(std::vector<double> samples, double q) {
  std::sort(samples.begin(), samples.end());
  const double position = static_cast<double>(samples.size() - 1) * q / 100;
  const auto low = static_cast<size_t>(std::floor(position));
  const auto high = static_cast<size_t>(std::ceil(position));
  return samples[low] + (samples[high] - samples[low]) * (position - static_cast<double>(low));
}

void print_line(const std::string& text) {
  if (std::printf("%s\n", text.c_str()) < 0 || std::fflush(stdout) != 0) {
    throw Error(Kind::kDevice, "Standard output can't be written to.");
  }
}

// Reads "101 7592 102".
std::vector<int64_t> read_ids(const std::string& line) {
  constexpr const char* kSpaces = " \t\r";
  std::vector<int64_t> found;
  for (size_t at = line.find_first_not_of(kSpaces); at != std::string::npos;) {
    const std::string word = line.substr(at, line.find_first_of(kSpaces, at) - at);
    char* end = nullptr;
    errno = 0;
    const long long id = std::strtoll(word.c_str(), &end, 10);
    // strtoll itself stops at a NUL, and skips spaces of any kind.
    if (word.find_first_not_of("+-0123456789") != std::string::npos || *end != '\0' || errno != 0) {
      throw Error(Kind::kInput,
                  "A line is ids separated by spaces; this is none: " + line.substr(at, 40) + ".");
    }
    found.push_back(id);
    at = line.find_first_not_of(kSpaces, at + word.size());
  }
  return found;
}

// The start of a text, for people; no character is cut in two.
std::string shortened(const std::string& text) {
  size_t end = std::min<size_t>(text.size(), 60);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80)
    --end;
  return text.substr(0, end) + (end < text.size() ? "..." : "");
}

}  // namespace

int golden(const Options& options) {
  Session session(options.bundle, options.artifact, options.threads);
  const Bundle& bundle = session.bundle();
  const bool decides = bundle.task() == "text-classification";
  const std::vector<GoldenCase> cases = bundle.golden(options.cases);
  if (cases.empty()) {
    throw Error(Kind::kBundle,
                options.bundle + " has no golden cases, so nothing can be verified.");
  }
  std::vector<double> scores;
  for (const GoldenCase& one : cases) {
    std::vector<Feed> feeds;
    for (const GoldenCase::Input& input : one.inputs) {
      feeds.push_back({input.name, {1, static_cast<int64_t>(input.values.size())}, input.values});
    }
    const Output& output = session.infer(feeds)[0];
    if (output.shape != one.shape) {
      throw Error(Kind::kBundle, "The artifact gives " + shape_text(output.shape) +
                                     " where the golden case has " + shape_text(one.shape) + ".");
    }
    const auto width = static_cast<size_t>(one.shape.back());
    scores.push_back(decides ? decision(one.expected, output.values, bundle.scores())
                             : cosine(one.expected, output.values, width));
  }
  const auto worst = std::min_element(scores.begin(), scores.end());
  const double mean =
      std::accumulate(scores.begin(), scores.end(), 0.0) / static_cast<double>(scores.size());
  const std::string metric = decides ? "same decision" : "cosine similarity";
  const std::string& text = cases[static_cast<size_t>(worst - scores.begin())].text;
  const bool ok = mean >= bundle.min_agreement();
  if (options.json) {
    print_line(dump(
        {{"id", session.artifact().id},
         {"engine", engine()},
         {"ok", ok},
         {"min_agreement", bundle.min_agreement()},
         {"agreement",
          {{"metric", metric},
           {"mean", mean},
           {"min", *worst},
           {"n", scores.size()},
           {"worst", text},
           {"device", std::string("runner (") + machine()["arch"].get<std::string>() + ")"}}}}));
  } else {
    std::printf("%s: %s with the fp32 model, mean %.4f, min %.4f, %zu cases, worst on \"%s\"\n",
                session.artifact().id.c_str(), metric.c_str(), mean, *worst, scores.size(),
                shortened(text).c_str());
  }
  if (!ok) {
    char figures[80];
    std::snprintf(figures, sizeof figures, " by %.4f; the gate is %g", mean,
                  bundle.min_agreement());
    throw Error(Kind::kGate, session.artifact().id + " agrees with the fp32 model" + figures + ".");
  }
  return 0;
}

int ids(const Options& options) {
  Session session(options.bundle, options.artifact, options.threads);
  LineReader reader(0, size_t{1} << 20);
  int code = 0;
  for (Line line; reader.next(line);) {
    try {
      if (line.too_long) throw Error(Kind::kInput, "A line is longer than 1 MiB.");
      const std::vector<Feed> feeds = session.feeds_of(read_ids(line.text));
      const double start = now_ms();
      const std::vector<Output>& outputs = session.infer(feeds);
      const double took = now_ms() - start;
      print_line(outputs_text(outputs) + ",\"inference_ms\":" + dump(took) + "}");
    } catch (const Error& error) {
      if (error.kind != Kind::kInput) throw;
      code = error.exit_code();  // the other lines are still answered
      print_line(error_text(error));
    }
  }
  return code;
}

int bench(const Options& options) {
  if (options.runs < 1 || options.warmup < 0 || options.tokens < 1) {
    throw Error(Kind::kUsage, "--runs and --tokens are 1 or more, --warmup is 0 or more.");
  }
  Session session(options.bundle, options.artifact, options.threads);
  if (options.tokens > session.bundle().max_tokens()) {
    throw Error(Kind::kUsage, "The bundle takes at most " +
                                  std::to_string(session.bundle().max_tokens()) + " tokens.");
  }
  const InputSpec* spec = nullptr;
  for (const InputSpec& input : session.artifact().signature.inputs) {
    if (input.name == "input_ids") spec = &input;
  }
  std::vector<int64_t> values;
  for (int64_t i = 0; i < options.tokens; ++i) {
    // Ids far apart, so that every one reads another row of the embedding.
    values.push_back(spec == nullptr ? 0 : (i * 7919 + 1000) % spec->bound);
  }
  const std::vector<Feed> feeds = session.feeds_of(std::move(values));
  const double begin = now_ms();
  session.infer(feeds);
  const double first = now_ms() - begin;
  for (int64_t i = 1; i < options.warmup; ++i) session.infer(feeds);
  std::vector<double> samples;
  const double cpu = cpu_ms();
  for (int64_t i = 0; i < options.runs; ++i) {
    const double start = now_ms();
    session.infer(feeds);
    samples.push_back(now_ms() - start);
  }
  const double spent = cpu_ms() - cpu;
  const double p50 = percentile(samples, 50), p90 = percentile(samples, 90);
  const double total = std::accumulate(samples.begin(), samples.end(), 0.0);
  const auto runs = static_cast<double>(options.runs);
  const OrderedJson p99 =
      options.runs < kRunsForP99 ? OrderedJson() : OrderedJson(percentile(samples, 99));
  const Artifact& artifact = session.artifact();
  if (!options.json) {
    const std::string last = p99.is_null() ? "n/a" : std::to_string(p99.get<double>());
    std::printf(
        "%s, %lld tokens, %d thread(s), %lld runs: p50 %.3f ms, p90 %.3f ms, p99 %s, "
        "first %.3f ms, load %.1f ms, %.1f MB\n%s\n",
        artifact.id.c_str(), static_cast<long long>(options.tokens), session.threads(),
        static_cast<long long>(options.runs), p50, p90, last.c_str(), first, session.load_ms(),
        peak_rss_mb(), machine()["cpu"].get<std::string>().c_str());
    return 0;
  }
  const OrderedJson record = {{"id", artifact.id},
                              {"format", artifact.format},
                              {"tokens", options.tokens},
                              {"threads", options.threads},
                              {"runs", options.runs},
                              {"load_ms", session.load_ms()},
                              {"first_ms", first},
                              {"tokenize_ms", 0.0},
                              {"p50_ms", p50},
                              {"p90_ms", p90},
                              {"p99_ms", p99},
                              {"mean_ms", total / runs},
                              {"cpu_ms", spent / runs},
                              {"peak_rss_mb", peak_rss_mb()}};
  print_line(dump({{"machine", machine()},
                   {"engines", {{artifact.id, engine()}}},
                   {"records", OrderedJson::array({record})}}));
  return 0;
}

}  // namespace edgellm
