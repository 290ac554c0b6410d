// Bytes of somebody else's, and big-endian numbers in them.

#ifndef KEYFOLD_NATIVE_BYTES_H_
#define KEYFOLD_NATIVE_BYTES_H_

#include <cstddef>
#include <cstdint>

namespace keyfold {

struct Span {
  const uint8_t* data;
  size_t len;
};

inline uint32_t ReadU32(const uint8_t* in) {
  return static_cast<uint32_t>(in[0]) << 24 | static_cast<uint32_t>(in[1]) << 16 | static_cast<uint32_t>(in[2]) << 8 |
         in[3];
}

inline void WriteU32(uint8_t* out, uint32_t value) {
  out[0] = static_cast<uint8_t>(value >> 24);
  out[1] = static_cast<uint8_t>(value >> 16);
  out[2] = static_cast<uint8_t>(value >> 8);
  out[3] = static_cast<uint8_t>(value);
}

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_BYTES_H_
