// XAES-256-GCM (c2sp.org/XAES-256-GCM) and its committing form KC-XAES-256-GCM (eprint 2025/758): from a 256-bit
// key and the first half of a 192-bit nonce to the AES-256-GCM key of a whole batch.

#ifndef KEYFOLD_NATIVE_XAES_H_
#define KEYFOLD_NATIVE_XAES_H_

#include <cstdint>

#include "aes_gcm.h"

namespace keyfold {

inline constexpr size_t kXaesNonceBytes = 24;
inline constexpr size_t kKcBytes = 32;

// XaesKey is an input key K: its key schedule and K1, the CMAC subkey. Made once per key.
struct alignas(64) XaesKey {
  AesKey aes;
  uint8_t k1[16];
};
void XaesInit(XaesKey* out, const AesGcm& gcm, const uint8_t key[32]);

// XaesDerive writes Kx, the AES-256-GCM key for nonces that begin with these 12 bytes. The caller wipes it.
void XaesDerive(uint8_t kx[32], const AesGcm& gcm, const XaesKey& key, const uint8_t nonce12[12]);

// KcInit writes X = AES_K("XCMT" ‖ N[0:12]), shared by a batch; KcCommit writes the 32-byte commitment KC of the
// message whose nonce ends with `nonce_tail` = N[12:24].
void KcInit(uint8_t x[16], const AesGcm& gcm, const XaesKey& key, const uint8_t nonce12[12]);
void KcCommit(uint8_t kc[32], const AesGcm& gcm, const XaesKey& key, const uint8_t x[16],
              const uint8_t nonce_tail[12]);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_XAES_H_
