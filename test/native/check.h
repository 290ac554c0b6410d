// What the native tests share: checks that stop at the first failure and say where, bytes from hexadecimal figures,
// and reproducible noise.

#ifndef KEYFOLD_TEST_NATIVE_CHECK_H_
#define KEYFOLD_TEST_NATIVE_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#define CHECK(condition)                                                              \
  do {                                                                                \
    if (!(condition)) {                                                               \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
      std::exit(1);                                                                   \
    }                                                                                 \
  } while (false)

// As CHECK, with the numbers of the case at hand.
#define CHECK_CASE(condition, ...)                                                    \
  do {                                                                                \
    if (!(condition)) {                                                               \
      std::fprintf(stderr, "%s:%d: not so: %s; ", __FILE__, __LINE__, #condition);    \
      std::fprintf(stderr, __VA_ARGS__);                                              \
      std::fprintf(stderr, "\n");                                                     \
      std::exit(1);                                                                   \
    }                                                                                 \
  } while (false)

namespace keyfold {

using Bytes = std::vector<uint8_t>;

inline Bytes FromHex(const std::string& hex) {
  CHECK(hex.size() % 2 == 0);
  Bytes bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoul(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

// Noise is the same in every run (xorshift64).
class Noise {
 public:
  explicit Noise(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}

  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

  size_t Below(size_t limit) { return static_cast<size_t>(Next() % limit); }

  Bytes Take(size_t len) {
    Bytes bytes(len);
    for (auto& byte : bytes) byte = static_cast<uint8_t>(Next() >> 32);
    return bytes;
  }

 private:
  uint64_t state_;
};

}  // namespace keyfold

#endif  // KEYFOLD_TEST_NATIVE_CHECK_H_
