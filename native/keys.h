// Operations on keys of the table: made, taken in, derived, wrapped and unwrapped under one another. No plaintext key
// leaves the table here.

#ifndef KEYFOLD_NATIVE_KEYS_H_
#define KEYFOLD_NATIVE_KEYS_H_

#include "key_table.h"

namespace keyfold {

inline constexpr size_t kKeyBytes = 32;
// nonce24 ‖ ciphertext ‖ tag16 around what is wrapped.
inline constexpr size_t kWrapOverheadBytes = kXaesNonceBytes + kGcmTagBytes;

[[nodiscard]] Status GenerateKey(const AesGcm& gcm, Handle* handle);

// ImportKey takes 32 bytes in and fills `source` with zeros, whatever happens.
[[nodiscard]] Status ImportKey(const AesGcm& gcm, uint8_t source[kKeyBytes], Handle* handle);

// DeriveKey makes HKDF-SHA-512(key, salt = 64 zero bytes, info = label).
[[nodiscard]] Status DeriveKey(const AesGcm& gcm, Handle key, const uint8_t* label, size_t label_len,
                               Handle* derived);

// CreateMessageKey makes a message key that seals from a raw key, which it leaves alone.
[[nodiscard]] Status CreateMessageKey(const AesGcm& gcm, Handle raw, uint8_t suite, Handle* handle);

// OpenMessageKey makes one that opens only; kDecryptFailed unless all 32 bytes of the commitment match.
[[nodiscard]] Status OpenMessageKey(const AesGcm& gcm, Handle raw, uint8_t suite,
                                    const uint8_t commitment[32], Handle* handle);

[[nodiscard]] Status GetCommitment(Handle message_key, uint8_t out[32]);

// WrapKey writes kKeyBytes + kWrapOverheadBytes: the key of `key`, which is of this kind, under `wrapping_key`.
[[nodiscard]] Status WrapKey(const AesGcm& gcm, uint8_t* out, Handle wrapping_key, const uint8_t* aad,
                             size_t aad_len, Handle key, Kind kind);
[[nodiscard]] Status UnwrapKey(const AesGcm& gcm, Handle wrapping_key, const uint8_t* aad, size_t aad_len,
                               const uint8_t* wrapped, size_t wrapped_len, Handle* handle);

// WrapBytes writes len + kWrapOverheadBytes; UnwrapBytes writes wrapped_len - kWrapOverheadBytes, and zeros where it
// fails.
[[nodiscard]] Status WrapBytes(const AesGcm& gcm, uint8_t* out, Handle wrapping_key, const uint8_t* aad,
                               size_t aad_len, const uint8_t* in, size_t len);
[[nodiscard]] Status UnwrapBytes(const AesGcm& gcm, uint8_t* out, Handle wrapping_key, const uint8_t* aad,
                                 size_t aad_len, const uint8_t* wrapped, size_t wrapped_len);

// SealXaes and OpenXaes do one message under any 24-byte nonce: wrapping, and public vectors. `out` of SealXaes has
// len + 16 bytes, and 32 more in suite 2. They use `gcm`, `kx` and `x` of the scratch.
void SealXaes(uint8_t* out, ScratchArea* scratch, const AesGcm& gcm, uint8_t suite,
              const XaesKey& key, const uint8_t nonce[kXaesNonceBytes], const uint8_t* aad,
              size_t aad_len, const uint8_t* in, size_t len);
[[nodiscard]] bool OpenXaes(uint8_t* out, ScratchArea* scratch, const AesGcm& gcm, uint8_t suite,
                            const XaesKey& key, const uint8_t nonce[kXaesNonceBytes],
                            const uint8_t* aad, size_t aad_len, const uint8_t* sealed,
                            size_t sealed_len);

// SealedOverhead is what sealing adds to a message: 16, or 48 in suite 2.
inline size_t SealedOverhead(uint8_t suite) {
  return suite == 2 ? kGcmTagBytes + kKcBytes : kGcmTagBytes;
}

// MessageAad writes suite ‖ data key id ‖ context hash.
void MessageAad(uint8_t out[kMessageAadBytes], const KeySlot& key, const uint8_t context_hash[32]);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_KEYS_H_
