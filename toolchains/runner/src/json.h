// JSON, read with a limit on its depth, and float32 written so that they read back the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace edgellm {

// What is read.
using Json = nlohmann::json;
// What is written: keys stay in order. Finding one takes time linear in their number, so hostile
// text is not read into it.
using OrderedJson = nlohmann::ordered_json;

// Thrown by parse_json and the readers below; says what is wrong and where.
struct JsonError {
  std::string what;
};

// Throws JsonError: not JSON, not UTF-8, or nested deeper than 64 levels.
Json parse_json(std::string_view text);

// The member `key` of an object. Each throws JsonError naming the key when it is missing or of
// another type; a number with a fraction is no integer, and true is no number.
const Json& member(const Json& object, const char* key);
const std::string& text_at(const Json& object, const char* key);
int64_t integer_at(const Json& object, const char* key);
double number_at(const Json& object, const char* key);
const Json& array_at(const Json& object, const char* key);

bool is_integer(const Json& value);

// What `values` of row-major `shape` look like as nested JSON arrays. Infinities and NaN are
// written as Python's json does.
void append_floats(std::string& text, const float* values, const std::vector<int64_t>& shape);

// One line; a string that is not UTF-8 (a file name) has its bytes replaced.
std::string dump(const OrderedJson& value);

}  // namespace edgellm
