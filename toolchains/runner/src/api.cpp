// edgellm.h over Session: exceptions end here.
#include "edgellm.h"

#include <exception>
#include <memory>
#include <new>
#include <string>

#include "error.h"
#include "session.h"

struct edgellm_session {
  edgellm::Session session;
};

namespace {

thread_local std::string last_error;

edgellm_status fail(edgellm_status status, const char* message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();  // no memory for the message
  }
  return status;
}

template <typename Work>
edgellm_status guarded(Work work) noexcept {
  try {
    work();
    return EDGELLM_OK;
  } catch (const edgellm::Error& error) {
    try {
      return fail(static_cast<edgellm_status>(error.exit_code()), error.text().c_str());
    } catch (...) {
      return fail(EDGELLM_DEVICE, "Memory ran out.");
    }
  } catch (const std::bad_alloc&) {
    return fail(EDGELLM_DEVICE, "Memory ran out.");
  } catch (const std::exception& error) {
    return fail(EDGELLM_INTERNAL, error.what());
  } catch (...) {
    return fail(EDGELLM_INTERNAL, "An error of an unknown type.");
  }
}

}  // namespace

edgellm_status edgellm_open(const char* bundle, const char* artifact, int threads,
                            edgellm_session** session) {
  if (session != nullptr) *session = nullptr;
  if (bundle == nullptr || session == nullptr) {
    return fail(EDGELLM_USAGE, "edgellm_open needs a bundle and a place for the session.");
  }
  return guarded([&] {
    *session = new edgellm_session{{bundle, artifact == nullptr ? "" : artifact, threads}};
  });
}

edgellm_status edgellm_run_ids(edgellm_session* session, const int64_t* ids, size_t tokens) {
  if (session == nullptr || (ids == nullptr && tokens > 0)) {
    return fail(EDGELLM_USAGE, "edgellm_run_ids needs a session and ids.");
  }
  return guarded([&] {
    edgellm::Session& opened = session->session;
    opened.check_length(tokens);
    opened.infer(opened.feeds_of({ids, ids + tokens}));
  });
}

edgellm_status edgellm_run(edgellm_session* session, const edgellm_input* inputs, size_t count) {
  if (session == nullptr || (inputs == nullptr && count > 0)) {
    return fail(EDGELLM_USAGE, "edgellm_run needs a session and inputs.");
  }
  for (size_t i = 0; i < count; ++i) {
    if (inputs[i].name == nullptr || (inputs[i].values == nullptr && inputs[i].tokens > 0)) {
      return fail(EDGELLM_USAGE, "edgellm_run: an input has no name or no values.");
    }
  }
  return guarded([&] {
    std::vector<edgellm::Feed> feeds;
    for (const edgellm_input* input = inputs; input != inputs + count; ++input) {
      session->session.check_length(input->tokens);
      feeds.push_back({input->name,
                       {1, static_cast<int64_t>(input->tokens)},
                       {input->values, input->values + input->tokens}});
    }
    session->session.infer(feeds);
  });
}

size_t edgellm_output_count(const edgellm_session* session) {
  return session == nullptr ? 0 : session->session.artifact().signature.outputs.size();
}

edgellm_status edgellm_get_output(const edgellm_session* session, size_t index,
                                  edgellm_output* output) {
  if (session == nullptr || output == nullptr) {
    return fail(EDGELLM_USAGE, "edgellm_get_output needs a session and a place for the output.");
  }
  const auto& outputs = session->session.outputs();
  if (outputs.empty()) return fail(EDGELLM_USAGE, "There is no output: no run has succeeded.");
  if (index >= outputs.size()) return fail(EDGELLM_USAGE, "There is no output of that index.");
  const edgellm::Output& found = outputs[index];
  *output = {found.name.c_str(), found.values.data(), found.values.size(), found.shape.data(),
             found.shape.size()};
  return EDGELLM_OK;
}

size_t edgellm_max_tokens(const edgellm_session* session) {
  return session == nullptr ? 0 : static_cast<size_t>(session->session.bundle().max_tokens());
}

void edgellm_close(edgellm_session* session) { delete session; }

const char* edgellm_last_error(void) { return last_error.c_str(); }

const char* edgellm_version(void) {
  static const std::string text = edgellm::version();
  return text.c_str();
}
