#include <edgellm.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { COUNT = 4, RUNS = 20, WIDTH = 384 };

static const char *bundle;
static float values[COUNT][WIDTH];

static void *work(void *place) {
  const int64_t ids[] = {101, 7592, 2088, 102};
  edgellm_session *session = NULL;
  edgellm_output output;
  int i;
  if (edgellm_open(bundle, NULL, 1, &session) != EDGELLM_OK) return NULL;
  for (i = 0; i < RUNS; ++i) {
    if (edgellm_run_ids(session, ids, 4) != EDGELLM_OK) return NULL;
    if (edgellm_get_output(session, 0, &output) != EDGELLM_OK || output.count != WIDTH) return NULL;
    if (i > 0 && memcmp(place, output.values, sizeof values[0]) != 0) return NULL;
    memcpy(place, output.values, sizeof values[0]);
  }
  edgellm_close(session);
  /* errors are the thread's own */
  if (edgellm_open("/nowhere", NULL, 1, &session) != EDGELLM_BUNDLE) return NULL;
  return strstr(edgellm_last_error(), "/nowhere is no bundle") == NULL ? NULL : place;
}

int main(int argc, char **argv) {
  pthread_t threads[COUNT];
  int i;
  (void)argc;
  bundle = argv[1];
  for (i = 0; i < COUNT; ++i) {
    if (pthread_create(&threads[i], NULL, work, values[i]) != 0) return 10;
  }
  for (i = 0; i < COUNT; ++i) {
    void *done = NULL;
    if (pthread_join(threads[i], &done) != 0 || done == NULL) return 20 + i;
    if (memcmp(values[0], values[i], sizeof values[0]) != 0) return 30 + i;
  }
  printf("%d.%d.%d\n", EDGELLM_VERSION_MAJOR, EDGELLM_VERSION_MINOR, EDGELLM_VERSION_PATCH);
  return strlen(edgellm_last_error()) == 0 ? 0 : 40;
}
