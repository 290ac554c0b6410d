// What keys are made from and what is made from them.

#include "keys.h"

#include <cstdlib>
#include <cstring>

#include "bytes.h"
#include "wipe.h"

namespace keyfold {
namespace {

constexpr char kLabelKey[] = "keyfold/messages/v1/key";
constexpr char kLabelCommitment[] = "keyfold/messages/v1/commitment";

// Puts 32 bytes into a new raw slot.
Status NewRaw(const AesGcm& gcm, const uint8_t key[kKeyBytes], Handle* handle) {
  Slot* slot;
  const Status status = NewSlot(Kind::kRaw, &slot, handle);
  if (status != Status::kOk) return status;
  std::memcpy(slot->key.key, key, kKeyBytes);
  XaesInit(&slot->key.xaes, gcm, key);
  UnpinSlot(slot);
  return Status::kOk;
}

// Derives the message key of `raw` into a slot of its own, still pinned.
Status NewMessageKey(const AesGcm& gcm, Handle raw, uint8_t suite, bool seals, Slot** slot,
                     Handle* handle) {
  if (suite != 1 && suite != 2) return Status::kMisuse;
  Pin pin(raw, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  const Status status = NewSlot(Kind::kMessageKey, slot, handle);
  if (status != Status::kOk) return status;
  KeySlot* key = &(*slot)->key;
  Scratch scratch;
  std::memcpy(key->key, pin.key()->key, kKeyBytes);
  key->suite = suite;
  key->seals = seals;
  HkdfExtract(scratch->prk, nullptr, 0, key->key, kKeyBytes, &scratch->hkdf);
  uint8_t info[sizeof(kLabelKey)];
  std::memcpy(info, kLabelKey, sizeof(kLabelKey) - 1);
  info[sizeof(kLabelKey) - 1] = suite;
  const uint8_t* label = reinterpret_cast<const uint8_t*>(kLabelCommitment);
  // They fail for outputs of more than 16,320 bytes only.
  if (!HkdfExpand(scratch->derived, kKeyBytes, scratch->prk, info, sizeof(info), &scratch->hkdf) ||
      !HkdfExpand(key->commitment, 32, scratch->prk, label, sizeof(kLabelCommitment) - 1, &scratch->hkdf)) {
    std::abort();
  }
  XaesInit(&key->xaes, gcm, scratch->derived);
  return Status::kOk;
}

}  // namespace

void MessageAad(uint8_t out[kMessageAadBytes], const KeySlot& key, const uint8_t context_hash[32]) {
  out[0] = key.suite;
  std::memcpy(out + 1, key.commitment, 16);
  std::memcpy(out + 17, context_hash, 32);
}

Status GenerateKey(const AesGcm& gcm, Handle* handle) {
  Scratch scratch;
  FillRandom(scratch->derived, kKeyBytes);
  return NewRaw(gcm, scratch->derived, handle);
}

Status ImportKey(const AesGcm& gcm, uint8_t source[kKeyBytes], Handle* handle) {
  const Status status = NewRaw(gcm, source, handle);
  Wipe(source, kKeyBytes);
  return status;
}

Status DeriveKey(const AesGcm& gcm, Handle key, const uint8_t* label, size_t label_len,
                 Handle* derived) {
  Pin pin(key, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  Scratch scratch;
  HkdfExtract(scratch->prk, nullptr, 0, pin.key()->key, kKeyBytes, &scratch->hkdf);
  if (!HkdfExpand(scratch->derived, kKeyBytes, scratch->prk, label, label_len, &scratch->hkdf)) {
    return Status::kMisuse;
  }
  return NewRaw(gcm, scratch->derived, derived);
}

Status CreateMessageKey(const AesGcm& gcm, Handle raw, uint8_t suite, Handle* handle) {
  Slot* slot;
  const Status status = NewMessageKey(gcm, raw, suite, true, &slot, handle);
  if (status == Status::kOk) UnpinSlot(slot);
  return status;
}

Status OpenMessageKey(const AesGcm& gcm, Handle raw, uint8_t suite, const uint8_t commitment[32],
                      Handle* handle) {
  Slot* slot;
  const Status status = NewMessageKey(gcm, raw, suite, false, &slot, handle);
  if (status != Status::kOk) return status;
  const bool committed = EqualBytes(slot->key.commitment, commitment, 32);
  if (!committed) (void)ReleaseSlot(*handle);
  UnpinSlot(slot);
  return committed ? Status::kOk : Status::kDecryptFailed;
}

Status GetCommitment(Handle message_key, uint8_t out[32]) {
  Pin pin(message_key, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  std::memcpy(out, pin.key()->commitment, 32);
  return Status::kOk;
}

Status WrapKey(const AesGcm& gcm, uint8_t* out, Handle wrapping_key, const uint8_t* aad,
               size_t aad_len, Handle key, Kind kind) {
  Pin pin(key, kind);
  if (pin.slot() == nullptr) return Status::kStale;
  return WrapBytes(gcm, out, wrapping_key, aad, aad_len, pin.key()->key, kKeyBytes);
}

Status UnwrapKey(const AesGcm& gcm, Handle wrapping_key, const uint8_t* aad, size_t aad_len,
                 const uint8_t* wrapped, size_t wrapped_len, Handle* handle) {
  if (wrapped_len != kKeyBytes + kWrapOverheadBytes) return Status::kDecryptFailed;
  Pin pin(wrapping_key, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  Scratch scratch;
  if (!OpenXaes(scratch->derived, scratch.area(), gcm, 1, pin.key()->xaes, wrapped, aad, aad_len,
                wrapped + kXaesNonceBytes, wrapped_len - kXaesNonceBytes)) {
    return Status::kDecryptFailed;
  }
  return NewRaw(gcm, scratch->derived, handle);
}

Status WrapBytes(const AesGcm& gcm, uint8_t* out, Handle wrapping_key, const uint8_t* aad,
                 size_t aad_len, const uint8_t* in, size_t len) {
  Pin pin(wrapping_key, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  Scratch scratch;
  DrawNonce(out, kXaesNonceBytes);
  SealXaes(out + kXaesNonceBytes, scratch.area(), gcm, 1, pin.key()->xaes, out, aad, aad_len, in, len);
  return Status::kOk;
}

Status UnwrapBytes(const AesGcm& gcm, uint8_t* out, Handle wrapping_key, const uint8_t* aad,
                   size_t aad_len, const uint8_t* wrapped, size_t wrapped_len) {
  if (wrapped_len < kWrapOverheadBytes) return Status::kDecryptFailed;
  Pin pin(wrapping_key, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  Scratch scratch;
  const bool opened = OpenXaes(out, scratch.area(), gcm, 1, pin.key()->xaes, wrapped, aad, aad_len,
                               wrapped + kXaesNonceBytes, wrapped_len - kXaesNonceBytes);
  return opened ? Status::kOk : Status::kDecryptFailed;
}

void SealXaes(uint8_t* out, ScratchArea* scratch, const AesGcm& gcm, uint8_t suite, const XaesKey& key,
              const uint8_t nonce[kXaesNonceBytes], const uint8_t* aad, size_t aad_len, const uint8_t* in,
              size_t len) {
  XaesDerive(scratch->kx, gcm, key, nonce);
  gcm.init(&scratch->gcm, scratch->kx, len);
  GcmAad hashed;
  gcm.hash_aad(&hashed, &scratch->gcm, aad, aad_len);
  const uint8_t* tail = nonce + 12;
  GcmMessage message{in, out, len, ReadU32(tail + 8), false};
  gcm.seal_many(&scratch->gcm, hashed, tail, &message, 1);
  if (suite == 2) {
    KcInit(scratch->x, gcm, key, nonce);
    KcCommit(out + len + kGcmTagBytes, gcm, key, scratch->x, tail);
  }
}

bool OpenXaes(uint8_t* out, ScratchArea* scratch, const AesGcm& gcm, uint8_t suite, const XaesKey& key,
              const uint8_t nonce[kXaesNonceBytes], const uint8_t* aad, size_t aad_len, const uint8_t* sealed,
              size_t sealed_len) {
  const size_t overhead = SealedOverhead(suite);
  if (sealed_len < overhead) return false;
  const size_t len = sealed_len - overhead;
  const uint8_t* tail = nonce + 12;
  if (suite == 2) {
    uint8_t kc[kKcBytes];
    KcInit(scratch->x, gcm, key, nonce);
    KcCommit(kc, gcm, key, scratch->x, tail);
    if (!EqualBytes(kc, sealed + len + kGcmTagBytes, kKcBytes)) {
      Wipe(out, len);
      return false;
    }
  }
  XaesDerive(scratch->kx, gcm, key, nonce);
  gcm.init(&scratch->gcm, scratch->kx, len);
  GcmAad hashed;
  gcm.hash_aad(&hashed, &scratch->gcm, aad, aad_len);
  GcmMessage message{sealed, out, len, ReadU32(tail + 8), false};
  gcm.open_many(&scratch->gcm, hashed, tail, &message, 1);
  return message.ok;
}

}  // namespace keyfold
