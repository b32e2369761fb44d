#include <edgellm.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  edgellm_session *session = NULL;
  edgellm_output output;
  const int64_t ids[] = {101, 7592, 102};
  const int64_t bad[] = {101, 99999, 102};
  const int64_t ones[] = {1, 1, 1}, zeros[] = {0, 0, 0};
  edgellm_input inputs[3];
  (void)argc;
  if (edgellm_open("/nowhere", NULL, 1, &session) != EDGELLM_BUNDLE || session != NULL) return 10;
  if (strstr(edgellm_last_error(), "is no bundle") == NULL) return 11;
  if (edgellm_open(argv[1], "onnx", 1, &session) != EDGELLM_USAGE) return 12;
  if (edgellm_open(NULL, NULL, 1, &session) != EDGELLM_USAGE) return 13;
  if (edgellm_open(argv[1], NULL, 1, &session) != EDGELLM_OK) {
    fprintf(stderr, "%s\n", edgellm_last_error());
    return 14;
  }
  if (edgellm_get_output(session, 0, &output) != EDGELLM_USAGE) return 15;
  if (edgellm_run_ids(session, bad, 3) != EDGELLM_INPUT) return 16;
  if (strstr(edgellm_last_error(), "holds 99999") == NULL) return 17;
  if (edgellm_run_ids(session, ids, 3) != EDGELLM_OK) return 18;
  if (edgellm_output_count(session) != 1 || edgellm_max_tokens(session) != 128) return 19;
  if (edgellm_get_output(session, 1, &output) != EDGELLM_USAGE) return 20;
  if (edgellm_get_output(session, 0, &output) != EDGELLM_OK) return 21;
  if (output.rank != 2 || output.shape[0] != 1 || (size_t)output.shape[1] != output.count) return 22;
  {
    const float first = output.values[0];
    inputs[0].name = "input_ids"; inputs[0].values = ids; inputs[0].tokens = 3;
    inputs[1].name = "attention_mask"; inputs[1].values = ones; inputs[1].tokens = 3;
    inputs[2].name = "token_type_ids"; inputs[2].values = zeros; inputs[2].tokens = 3;
    if (edgellm_run(session, inputs, 2) != EDGELLM_INPUT) return 23;
    if (edgellm_run(session, inputs, 3) != EDGELLM_OK) return 24;
    if (edgellm_get_output(session, 0, &output) != EDGELLM_OK || output.values[0] != first) return 25;
  }
  {
    edgellm_session *second = NULL; /* the pool of compute threads is the process's */
    if (edgellm_open(argv[1], NULL, 2, &second) != EDGELLM_USAGE) return 26;
    if (edgellm_open(argv[1], NULL, 1, &second) != EDGELLM_OK) return 27;
    edgellm_close(second);
  }
  printf("%s %s %.9g\n", edgellm_version(), output.name, output.values[0]);
  /* after a run that failed there is no output; a length that is absurd forms no pointer */
  if (edgellm_run_ids(session, bad, 3) != EDGELLM_INPUT) return 28;
  if (edgellm_get_output(session, 0, &output) != EDGELLM_USAGE) return 29;
  if (edgellm_run_ids(session, ids, 3) != EDGELLM_OK) return 30;
  if (edgellm_run_ids(session, ids, SIZE_MAX) != EDGELLM_INPUT) return 31;
  if (strstr(edgellm_last_error(), "tokens exceed the bundle's 128") == NULL) return 32;
  if (edgellm_get_output(session, 0, &output) != EDGELLM_USAGE) return 33;
  inputs[1].tokens = SIZE_MAX / 8;
  if (edgellm_run(session, inputs, 3) != EDGELLM_INPUT) return 34;
  edgellm_close(session);
  edgellm_close(NULL);
  if (edgellm_open(argv[1], "executorch", 1, &session) != EDGELLM_OK) return 35;
  edgellm_close(session);
  return 0;
}
