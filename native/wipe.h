// Wiping memory that held a secret, so that the compiler cannot prove the store dead and drop it.

#ifndef KEYFOLD_NATIVE_WIPE_H_
#define KEYFOLD_NATIVE_WIPE_H_

#include <cstddef>
#include <cstring>

namespace keyfold {

inline void Wipe(void* bytes, size_t len) {
  // Nothing may be at no address, which memset forbids.
  if (len == 0) return;
  std::memset(bytes, 0, len);
  __asm__ __volatile__("" : : "r"(bytes) : "memory");
}

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_WIPE_H_
