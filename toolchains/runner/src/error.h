// The errors of edgellm/errors.py: the same kinds, exit codes and JSON form.
#pragma once

#include <string>
#include <utility>

namespace edgellm {

// The values are exit codes.
enum class Kind { kInternal = 70, kUsage = 2, kInput = 3, kGate = 5, kBundle = 6, kDevice = 7 };

struct Error {
  Kind kind;
  std::string message;
  std::string hint;

  Error(Kind kind, std::string message, std::string hint = "")
      : kind(kind), message(std::move(message)), hint(std::move(hint)) {}

  int exit_code() const { return static_cast<int>(kind); }

  std::string text() const { return hint.empty() ? message : message + " " + hint; }

  const char* kind_name() const {
    switch (kind) {
      case Kind::kUsage:
        return "UsageError";
      case Kind::kInput:
        return "InputError";
      case Kind::kGate:
        return "GateError";
      case Kind::kBundle:
        return "BundleError";
      case Kind::kDevice:
        return "DeviceError";
      case Kind::kInternal:
        break;
    }
    return "EdgellmError";
  }
};

}  // namespace edgellm
