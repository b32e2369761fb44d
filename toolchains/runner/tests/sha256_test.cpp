// FIPS 180-4 examples, and every split of a message into two updates.
#include "sha256.h"

#include <cstdio>
#include <string>

int main() {
  const struct {
    std::string message;
    const char* digest;
  } vectors[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmn"
       "o"
       "pqrsmnopqrstnopqrstu",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {std::string(1000000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  int failures = 0;
  for (const auto& vector : vectors) {
    const std::string& message = vector.message;
    const size_t splits = message.size() < 200 ? message.size() : 200;
    for (size_t split = 0; split <= splits; ++split) {
      edgellm::Sha256 hash;
      hash.update(message.data(), split);
      hash.update(message.data() + split, message.size() - split);
      if (hash.hex() == vector.digest) continue;
      std::printf("wrong: %zu bytes, split at %zu\n", message.size(), split);
      ++failures;
    }
  }
  return failures == 0 ? 0 : 1;
}
