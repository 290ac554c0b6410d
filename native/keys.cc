#include "keys.h"

#include <cstring>

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
  PublishSlot(slot);
  return Status::kOk;
}

// Derives the message key of `raw` into a slot of its own, not yet published.
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
  bool expanded =
      HkdfExpand(scratch->derived, kKeyBytes, scratch->prk, info, sizeof(info), &scratch->hkdf);
  expanded = HkdfExpand(key->commitment, 32, scratch->prk,
                        reinterpret_cast<const uint8_t*>(kLabelCommitment),
                        sizeof(kLabelCommitment) - 1, &scratch->hkdf) &&
             expanded;
  XaesInit(&key->xaes, gcm, scratch->derived);
  return expanded ? Status::kOk : Status::kMisuse;
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
  if (status == Status::kOk) PublishSlot(slot);
  return status;
}

Status OpenMessageKey(const AesGcm& gcm, Handle raw, uint8_t suite, const uint8_t commitment[32],
                      Handle* handle) {
  Slot* slot;
  const Status status = NewMessageKey(gcm, raw, suite, false, &slot, handle);
  if (status != Status::kOk) return status;
  const bool committed = EqualBytes(slot->key.commitment, commitment, 32);
  if (!committed) (void)ReleaseSlot(*handle);
  PublishSlot(slot);
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
  Scratch scratch;
  const Status status =
      UnwrapBytes(gcm, scratch->derived, wrapping_key, aad, aad_len, wrapped, wrapped_len);
  if (status != Status::kOk) return status;
  return NewRaw(gcm, scratch->derived, handle);
}

Status WrapBytes(const AesGcm& gcm, uint8_t* out, Handle wrapping_key, const uint8_t* aad,
                 size_t aad_len, const uint8_t* in, size_t len) {
  Pin pin(wrapping_key, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  FillRandom(out, kXaesNonceBytes);
  SealXaes(gcm, out + kXaesNonceBytes, 1, pin.key()->xaes, out, aad, aad_len, in, len);
  return Status::kOk;
}

Status UnwrapBytes(const AesGcm& gcm, uint8_t* out, Handle wrapping_key, const uint8_t* aad,
                   size_t aad_len, const uint8_t* wrapped, size_t wrapped_len) {
  if (wrapped_len < kWrapOverheadBytes) return Status::kDecryptFailed;
  Pin pin(wrapping_key, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  const bool opened =
      OpenXaes(gcm, out, 1, pin.key()->xaes, wrapped, aad, aad_len, wrapped + kXaesNonceBytes,
               wrapped_len - kXaesNonceBytes);
  return opened ? Status::kOk : Status::kDecryptFailed;
}

void SealXaes(const AesGcm& gcm, uint8_t* out, uint8_t suite, const XaesKey& key,
              const uint8_t nonce[kXaesNonceBytes], const uint8_t* aad, size_t aad_len,
              const uint8_t* in, size_t len) {
  Scratch scratch;
  XaesDerive(scratch->kx, gcm, key, nonce);
  gcm.init(&scratch->gcm, scratch->kx, len);
  GcmAad hashed;
  gcm.hash_aad(&hashed, &scratch->gcm, aad, aad_len);
  const uint8_t* tail = nonce + 12;
  const uint32_t index = static_cast<uint32_t>(tail[8]) << 24 | static_cast<uint32_t>(tail[9]) << 16 |
                         static_cast<uint32_t>(tail[10]) << 8 | tail[11];
  GcmMessage message{in, out, len, index, false};
  gcm.seal_many(&scratch->gcm, hashed, tail, &message, 1);
  if (suite == 2) {
    KcInit(scratch->x, gcm, key, nonce);
    KcCommit(out + len + kGcmTagBytes, gcm, key, scratch->x, tail);
  }
}

bool OpenXaes(const AesGcm& gcm, uint8_t* out, uint8_t suite, const XaesKey& key,
              const uint8_t nonce[kXaesNonceBytes], const uint8_t* aad, size_t aad_len,
              const uint8_t* sealed, size_t sealed_len) {
  const size_t overhead = SealedOverhead(suite);
  if (sealed_len < overhead) return false;
  const size_t len = sealed_len - overhead;
  const uint8_t* tail = nonce + 12;
  Scratch scratch;
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
  const uint32_t index = static_cast<uint32_t>(tail[8]) << 24 | static_cast<uint32_t>(tail[9]) << 16 |
                         static_cast<uint32_t>(tail[10]) << 8 | tail[11];
  GcmMessage message{sealed, out, len, index, false};
  gcm.open_many(&scratch->gcm, hashed, tail, &message, 1);
  return message.ok;
}

}  // namespace keyfold
