// The worker's lines, as edgellm/runtime/worker.py documents them.
#pragma once

#include <string>
#include <vector>

#include "error.h"
#include "model.h"

namespace edgellm {

// Serves requests from descriptor 0 until its end. Replies go to what was standard output; from
// then on standard output is standard error, so that no library can break the protocol.
int serve();

// `{"outputs":{...}`: a reply that more members and a brace end.
std::string outputs_text(const std::vector<Output>& outputs);

// `{"error":{...}}`.
std::string error_text(const Error& error);

// "edgellm-runner 0.1.0 (executorch 1.5.1)".
std::string engine();

}  // namespace edgellm
