/* How close in meaning is each text to the first? One forward pass per text, in C, without Python.
 *
 * Reads one text per line from standard input, as the token ids that the bundle's tokenizer.json gives, and prints the
 * cosine of its vector with that of the first line.
 */
#include <edgellm.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_IDS = 512, MAX_LINE = 8 * MAX_IDS };

static int fail(const char* doing) {
  fprintf(stderr, "similarity: %s: %s\n", doing, edgellm_last_error());
  return 1;
}

/* Read ids separated by spaces; return how many, or -1 where something is no number or there are too many. */
static int read_ids(const char* line, int64_t* ids) {
  int count = 0;
  for (char* end; *line != '\0' && *line != '\n'; line = end) {
    const long long id = strtoll(line, &end, 10);
    if (end == line || count == MAX_IDS) return -1;
    ids[count++] = id;
    while (*end == ' ') ++end;
  }
  return count;
}

static double cosine(const float* a, const float* b, size_t count) {
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < count; ++i) {
    dot += (double)a[i] * b[i];
    aa += (double)a[i] * a[i];
    bb += (double)b[i] * b[i];
  }
  return dot / sqrt(aa * bb);
}

int main(int argc, char** argv) {
  static char line[MAX_LINE];
  static int64_t ids[MAX_IDS];
  float* first = NULL;
  edgellm_session* session = NULL;
  int code = 0;

  if (argc != 2) {
    fprintf(stderr, "usage: similarity BUNDLE < ids\n");
    return 2;
  }
  if (edgellm_open(argv[1], NULL, 1, &session) != EDGELLM_OK) return fail("the bundle does not open");
  for (int number = 1; fgets(line, sizeof line, stdin) != NULL; ++number) {
    edgellm_output output;
    const int count = read_ids(line, ids);
    if (count < 0) {
      fprintf(stderr, "similarity: line %d holds something that is no id, or more than %d ids\n", number, MAX_IDS);
      code = 1;
      break;
    }
    if (edgellm_run_ids(session, ids, (size_t)count) != EDGELLM_OK ||
        edgellm_get_output(session, 0, &output) != EDGELLM_OK) {
      code = fail("a text does not run");
      break;
    }
    if (first == NULL) {
      /* The values are the session's until its next run. */
      first = malloc(output.count * sizeof *first);
      if (first == NULL) {
        code = 1;
        break;
      }
      for (size_t i = 0; i < output.count; ++i) first[i] = output.values[i];
    }
    printf("text %d: %.3f\n", number, cosine(first, output.values, output.count));
  }
  free(first);
  edgellm_close(session);
  return code;
}
