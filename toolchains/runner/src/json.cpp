#include "json.h"

#include <cmath>

namespace edgellm {
namespace {

constexpr int kDeepest = 64;

// Building a value takes memory per level: 16 MB of '[' would take a gigabyte.
void check_depth(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDeepest) throw JsonError{"it nests deeper than 64 levels"};
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

const char* type_of(const Json& value) {
  return value.is_number_float() ? "a fraction" : value.type_name();
}

size_t append_axis(std::string& text, const float* values, const std::vector<int64_t>& shape,
                   size_t axis) {
  if (axis == shape.size()) {
    if (std::isnan(*values)) {
      text += "NaN";
    } else if (std::isinf(*values)) {
      text += *values < 0 ? "-Infinity" : "Infinity";
    } else {
      char buffer[64];
      // What json::dump itself calls; std::to_chars for floats needs a libstdc++ of 2021.
      text.append(buffer, nlohmann::detail::to_chars(buffer, buffer + sizeof buffer, *values));
    }
    return 1;
  }
  size_t used = 0;
  text += '[';
  for (int64_t i = 0; i < shape[axis]; ++i) {
    if (i > 0) text += ',';
    used += append_axis(text, values + used, shape, axis + 1);
  }
  text += ']';
  return used;
}

}  // namespace

Json parse_json(std::string_view text) {
  try {
    check_depth(text);
    return Json::parse(text.begin(), text.end());
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 1: ...": the name says
    // nothing.
    const std::string what = error.what();
    const size_t end = what.find("] ");
    throw JsonError{end == std::string::npos ? what : what.substr(end + 2)};
  }
}

bool is_integer(const Json& value) { return value.is_number_integer(); }

const Json& member(const Json& object, const char* key) {
  if (!object.is_object()) {
    throw JsonError{std::string("an object with '") + key + "' is needed, not " + type_of(object)};
  }
  const auto found = object.find(key);
  if (found == object.end()) throw JsonError{std::string("'") + key + "' is missing"};
  return *found;
}

const std::string& text_at(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (!value.is_string()) {
    throw JsonError{std::string("'") + key + "' is " + type_of(value) + ", not a string"};
  }
  return value.get_ref<const std::string&>();
}

int64_t integer_at(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (!is_integer(value)) {
    throw JsonError{std::string("'") + key + "' is " + type_of(value) + ", not a whole number"};
  }
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) {
    throw JsonError{std::string("'") + key + "' is too large"};
  }
  return value.get<int64_t>();
}

double number_at(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (!value.is_number()) {
    throw JsonError{std::string("'") + key + "' is " + type_of(value) + ", not a number"};
  }
  return value.get<double>();
}

const Json& array_at(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (!value.is_array()) {
    throw JsonError{std::string("'") + key + "' is " + type_of(value) + ", not an array"};
  }
  return value;
}

void append_floats(std::string& text, const float* values, const std::vector<int64_t>& shape) {
  append_axis(text, values, shape, 0);
}

std::string dump(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace edgellm
