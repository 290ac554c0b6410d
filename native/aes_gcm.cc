// The choice among the implementations of AES-256-GCM, and comparison in constant time.

#include "aes_gcm.h"

#include "aes_gcm_internal.h"

namespace keyfold {

const AesGcm* GetAesGcm(Implementation implementation) {
  if (!Supports(implementation)) return nullptr;
#if defined(__x86_64__)
  switch (implementation) {
    case Implementation::kVaes:
      return &kAesGcmVaes;
    case Implementation::kAesni:
      return &kAesGcmAesni;
    case Implementation::kNone:
      return nullptr;
  }
#endif
  return nullptr;
}

bool EqualBytes(const uint8_t* a, const uint8_t* b, size_t len) {
  uint8_t difference = 0;
  for (size_t i = 0; i < len; ++i) {
    difference = static_cast<uint8_t>(difference | (a[i] ^ b[i]));
    // Without this the compiler may stop at the first difference.
    __asm__ volatile("" : "+r"(difference));
  }
  return difference == 0;
}

}  // namespace keyfold
