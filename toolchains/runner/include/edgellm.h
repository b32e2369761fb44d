/* edgellm.h: run one ExecuTorch artifact of an edgellm bundle from an app.
 *
 *   edgellm_session *session = NULL;
 *   if (edgellm_open("bundle", NULL, 1, &session) != EDGELLM_OK) {
 *     fprintf(stderr, "%s\n", edgellm_last_error());
 *     return 1;
 *   }
 *   const int64_t ids[] = {101, 7592, 102};
 *   if (edgellm_run_ids(session, ids, 3) == EDGELLM_OK) {
 *     edgellm_output output;
 *     edgellm_get_output(session, 0, &output);
 *     // output.values: output.count floats of shape output.shape[0 .. output.rank)
 *   }
 *   edgellm_close(session);
 *
 * The library has no tokenizer: it takes the ids that the bundle's tokenizer.json gives.
 *
 * Threads: a session is used by one thread at a time; different sessions may be used by different
 * threads. ExecuTorch has one pool of compute threads per process, so all sessions that are open at
 * the same time have the same number of compute threads.
 *
 * Errors: every function that can fail returns a status, and leaves what happened in
 * edgellm_last_error(), which is per thread. No exception leaves the library.
 */
#ifndef EDGELLM_H
#define EDGELLM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define EDGELLM_API __attribute__((visibility("default")))
#else
#define EDGELLM_API
#endif

/* Of this header; edgellm_version() is that of the library. */
#define EDGELLM_VERSION_MAJOR 0
#define EDGELLM_VERSION_MINOR 1
#define EDGELLM_VERSION_PATCH 0

/* What went wrong; the values are the exit codes of edgellm's commands. */
typedef enum edgellm_status {
  EDGELLM_OK = 0,
  EDGELLM_USAGE = 2,    /* an argument is wrong, or names an artifact or output that is not there */
  EDGELLM_INPUT = 3,    /* a name, a length or an id does not fit the artifact */
  EDGELLM_BUNDLE = 6,   /* the bundle is missing, damaged or altered, or its artifact won't load */
  EDGELLM_DEVICE = 7,   /* the machine failed: no memory, or the artifact failed to run */
  EDGELLM_INTERNAL = 70 /* an error inside the library */
} edgellm_status;

/* One opened artifact. */
typedef struct edgellm_session edgellm_session;

/* One input [1, tokens]: "input_ids", "attention_mask" or "token_type_ids". */
typedef struct edgellm_input {
  const char* name;
  const int64_t* values;
  size_t tokens;
} edgellm_input;

/* One output: count values in row-major order, of shape[0] x ... x shape[rank - 1].
 * The pointers are the session's, valid until its next run or its close. */
typedef struct edgellm_output {
  const char* name;
  const float* values;
  size_t count;
  const int64_t* shape;
  size_t rank;
} edgellm_output;

/* Open an artifact of a bundle. Its size and SHA-256 are checked before any of it is used, and it
 * is used from memory: the bundle's files may change or go while the session is open.
 *
 * bundle:   the bundle's folder; EDGELLM_BUNDLE if it is missing or no bundle.
 * artifact: an artifact id, or a format for the first artifact of it. NULL is "executorch", the
 *           only format that the library runs.
 * threads:  compute threads, 1 to 128.
 * session:  receives the handle, or NULL on failure. */
EDGELLM_API edgellm_status edgellm_open(const char* bundle, const char* artifact, int threads,
                                        edgellm_session** session);

/* Run one forward pass over unpadded ids of one text: the attention mask is all ones, the token
 * types are all zeros where the artifact takes them. */
EDGELLM_API edgellm_status edgellm_run_ids(edgellm_session* session, const int64_t* ids,
                                           size_t tokens);

/* Run one forward pass over named inputs, unpadded, one for each that the artifact takes. */
EDGELLM_API edgellm_status edgellm_run(edgellm_session* session, const edgellm_input* inputs,
                                       size_t count);

/* How many outputs a run gives; 0 for NULL. */
EDGELLM_API size_t edgellm_output_count(const edgellm_session* session);

/* Fill in one output of the last run; EDGELLM_USAGE if that run failed. */
EDGELLM_API edgellm_status edgellm_get_output(const edgellm_session* session, size_t index,
                                              edgellm_output* output);

/* The longest text in tokens, special tokens included; 0 for NULL. */
EDGELLM_API size_t edgellm_max_tokens(const edgellm_session* session);

/* Free a session; NULL is ignored. */
EDGELLM_API void edgellm_close(edgellm_session* session);

/* What the last failed call of this thread said, in UTF-8; "" if none failed. It stays valid until
 * the thread's next call that fails. */
EDGELLM_API const char* edgellm_last_error(void);

/* "0.1.0 (executorch 1.5.1)". */
EDGELLM_API const char* edgellm_version(void);

#ifdef __cplusplus
}
#endif

#endif /* EDGELLM_H */
