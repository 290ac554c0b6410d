// SHA-256, SHA-512 (FIPS 180-4), HMAC and HKDF-SHA-512 (RFC 5869), for keys that must not leave locked scratch:
// every intermediate lives in the structs below, which their owner places and wipes.

#ifndef KEYFOLD_NATIVE_SHA2_H_
#define KEYFOLD_NATIVE_SHA2_H_

#include <cstddef>
#include <cstdint>

namespace keyfold {

struct Sha256 {
  uint32_t state[8];
  uint8_t block[64];
  uint64_t len;
};
void Sha256Init(Sha256* hash);
void Sha256Update(Sha256* hash, const uint8_t* in, size_t len);
// Sha256Final writes the digest and wipes `hash`.
void Sha256Final(uint8_t out[32], Sha256* hash);

struct Sha512 {
  uint64_t state[8];
  uint8_t block[128];
  uint64_t len;
};
void Sha512Init(Sha512* hash);
void Sha512Update(Sha512* hash, const uint8_t* in, size_t len);
// Sha512Final writes the digest and wipes `hash`.
void Sha512Final(uint8_t out[64], Sha512* hash);

// HkdfScratch holds every intermediate of the two calls below; the caller wipes it afterwards.
struct HkdfScratch {
  Sha512 inner;
  Sha512 outer;
  uint8_t pad[128];
  uint8_t t[64];
};

// HkdfExtract writes PRK = HMAC-SHA-512(salt, ikm). An empty salt means 64 zero bytes (RFC 5869 §2.2).
void HkdfExtract(uint8_t prk[64], const uint8_t* salt, size_t salt_len, const uint8_t* ikm, size_t ikm_len,
                 HkdfScratch* scratch);

// HkdfExpand fills `out`. It returns false, with `out` untouched, if out_len exceeds 255 * 64.
[[nodiscard]] bool HkdfExpand(uint8_t* out, size_t out_len, const uint8_t prk[64], const uint8_t* info,
                              size_t info_len, HkdfScratch* scratch);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_SHA2_H_
