// AES-256-GCM for batches (NIST SP 800-38D; 96-bit nonces, 128-bit tags): the contract of the kernels.
//
// A batch has one key, one AAD and nonces that differ in their last four bytes only, so the key schedule, the
// powers of H and the hash of the AAD are made once and used for all of its messages. Everything here runs in
// constant time with respect to keys and plaintext. Lengths are public.
//
// Structs that hold secrets are plain memory: the caller places them in locked scratch and wipes them.

#ifndef KEYFOLD_NATIVE_AES_GCM_H_
#define KEYFOLD_NATIVE_AES_GCM_H_

#include <cstddef>
#include <cstdint>

#include "cpu.h"

namespace keyfold {

inline constexpr size_t kAesKeyBytes = 32;
inline constexpr size_t kAesBlockBytes = 16;
inline constexpr size_t kGcmTagBytes = 16;
inline constexpr size_t kGcmNonceBytes = 12;

// AesKey is an expanded AES-256 encryption key (FIPS 197): 15 round keys.
struct alignas(64) AesKey {
  uint8_t round_keys[15 * 16];
};

// A message longer than 32 blocks is hashed 32 at a time, with H^32 to H^1. Its last up to 32 blocks and the block
// of lengths after them need H^33; a multiple of four keeps vectors of powers aligned.
inline constexpr size_t kGcmPowersMax = 36;

// GcmKey is an AesKey with the powers of H that the kernels need, in their own representation. Only the
// implementation that made it can use it, and only one thread at a time, since any call may add powers.
struct alignas(64) GcmKey {
  AesKey aes;
  // H^36 first and H^1 last, then zeros: a vector that begins at H^1 reads three powers too many.
  uint8_t h_powers[(kGcmPowersMax + 4) * 16];
  // For each power the sum of its two halves (Karatsuba), in the same order.
  uint8_t h_sums[(kGcmPowersMax + 4) * 16];
  // How many powers are there so far: short messages need few, and longer ones add to them.
  uint32_t num_powers;
};

// GcmAad is the GHASH state after the AAD, shared by all messages of a batch.
struct alignas(16) GcmAad {
  uint8_t state[16];
  uint64_t len;
};

// GcmMessage is one message of a batch. `out` receives, when sealing, ciphertext and tag (len + 16 bytes); when
// opening, plaintext (len bytes; the tag is read behind the ciphertext, at in + len). `in` and `out` must not
// overlap. `index` is the last four bytes of its nonce.
struct GcmMessage {
  const uint8_t* in;
  uint8_t* out;
  size_t len;
  uint32_t index;
  // Written by OpenMany: whether the tag matched. Where it did not, no byte of plaintext was written to `out`
  // that is not zero again on return.
  bool ok;
};

// AesGcm is one implementation; GetAesGcm returns it. All functions tolerate any alignment of bytes.
struct AesGcm {
  // Expands `key`.
  void (*expand_key)(AesKey* out, const uint8_t key[32]);
  // Encrypts `num_blocks` single blocks (ECB; for XAES's derivation).
  void (*encrypt_blocks)(uint8_t* out, const AesKey& key, const uint8_t* in, size_t num_blocks);
  // Makes a GcmKey. `message_bytes_hint` is the length of the messages to come, for the number of powers.
  void (*init)(GcmKey* out, const uint8_t key[32], size_t message_bytes_hint);
  // Hashes the AAD of a batch.
  void (*hash_aad)(GcmAad* out, GcmKey* key, const uint8_t* aad, size_t aad_len);
  // Seals `num_messages` messages; nonce of each = nonce_prefix ‖ u32be(index). A nonce must never repeat under
  // one key: the caller sees to it. Short messages are interleaved to fill the pipeline.
  void (*seal_many)(GcmKey* key, const GcmAad& aad, const uint8_t nonce_prefix[8], GcmMessage* messages,
                    size_t num_messages);
  // Opens them; sets `ok` of each.
  void (*open_many)(GcmKey* key, const GcmAad& aad, const uint8_t nonce_prefix[8], GcmMessage* messages,
                    size_t num_messages);
};

// GetAesGcm returns the kernels of `implementation`; nullptr where this build or processor has none.
[[nodiscard]] const AesGcm* GetAesGcm(Implementation implementation);

// The kernels take this many messages best in one call of seal_many or open_many.
inline constexpr size_t kGcmGroup = 64;

// EqualBytes compares in constant time.
[[nodiscard]] bool EqualBytes(const uint8_t* a, const uint8_t* b, size_t len);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_AES_GCM_H_
