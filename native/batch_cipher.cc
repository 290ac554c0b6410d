// Groups of messages on their way to the kernels and back.

#include "batch_cipher.h"

#include <cstring>

#include "keys.h"
#include "msgpack.h"
#include "wipe.h"

namespace keyfold {

Sealer::Sealer(const AesGcm& gcm, const XaesKey& xaes, uint8_t suite, const uint8_t aad[kMessageAadBytes],
               const uint8_t r[kBatchNonceBytes], size_t message_bytes_hint)
    : gcm_(gcm), xaes_(xaes), r_(r), suite_(suite) {
  XaesDerive(scratch_->kx, gcm_, xaes_, r_);
  Init(scratch_->kx, aad, message_bytes_hint);
}

Sealer::Sealer(const AesGcm& gcm, const TicketSlot& ticket, const XaesKey& xaes, size_t message_bytes_hint)
    : gcm_(gcm), xaes_(xaes), r_(ticket.r), suite_(ticket.suite) {
  Init(ticket.kx, ticket.aad, message_bytes_hint);
}

void Sealer::Init(const uint8_t kx[32], const uint8_t aad[kMessageAadBytes], size_t message_bytes_hint) {
  gcm_.init(&scratch_->gcm, kx, message_bytes_hint);
  gcm_.hash_aad(&aad_, &scratch_->gcm, aad, kMessageAadBytes);
  if (suite_ == 2) KcInit(scratch_->x, gcm_, xaes_, r_);
}

void Sealer::Flush() {
  if (num_messages_ == 0) return;
  gcm_.seal_many(&scratch_->gcm, aad_, r_ + 12, messages_, num_messages_);
  for (size_t i = 0; suite_ == 2 && i < num_messages_; i++) {
    uint8_t tail[12];
    std::memcpy(tail, r_ + 12, 8);
    WriteU32(tail + 8, messages_[i].index);
    KcCommit(messages_[i].out + messages_[i].len + kGcmTagBytes, gcm_, xaes_, scratch_->x, tail);
  }
  num_messages_ = 0;
}

void Opener::AddNil(size_t message, bool failed) {
  if (num_elements_ == kGcmGroup) Flush();
  failures_[message] = failed ? 1 : 0;
  elements_[num_elements_++] = {next_, nullptr, 1, message};
  *next_++ = kNil;
}

void Opener::Add(size_t message, const KeySlot& key, const uint8_t nonce[kXaesNonceBytes], const Span& sealed) {
  const size_t len = sealed.len - SealedOverhead(key.suite);
  if (&key != key_ || std::memcmp(r_, nonce, sizeof(r_)) != 0) {
    Flush();
    Derive(key, nonce, len);
  }
  if (key.suite == 2) {
    uint8_t kc[kKcBytes];
    KcCommit(kc, gcm_, key.xaes, scratch_->x, nonce + 12);
    if (!EqualBytes(kc, sealed.data + len + kGcmTagBytes, kKcBytes)) {
      AddNil(message, true);
      return;
    }
  }
  if (num_elements_ == kGcmGroup) Flush();
  failures_[message] = 0;
  uint8_t* plaintext = WriteElementHead(next_, len);
  GcmMessage* collected = &messages_[num_messages_++];
  *collected = {sealed.data, plaintext, len, ReadU32(nonce + kBatchNonceBytes), false};
  elements_[num_elements_++] = {next_, collected, ElementBytes(len), message};
  next_ = plaintext + len;
}

void Opener::Derive(const KeySlot& key, const uint8_t* nonce, size_t message_bytes) {
  key_ = &key;
  std::memcpy(r_, nonce, sizeof(r_));
  XaesDerive(scratch_->kx, gcm_, key.xaes, nonce);
  gcm_.init(&scratch_->gcm, scratch_->kx, message_bytes);
  uint8_t aad[kMessageAadBytes];
  MessageAad(aad, key, context_hash_);
  gcm_.hash_aad(&aad_, &scratch_->gcm, aad, sizeof(aad));
  if (key.suite == 2) KcInit(scratch_->x, gcm_, key.xaes, nonce);
}

void Opener::Flush() {
  if (num_messages_ > 0) {
    gcm_.open_many(&scratch_->gcm, aad_, r_ + 12, messages_, num_messages_);
    bool all = true;
    for (size_t i = 0; i < num_messages_; i++) all = all && messages_[i].ok;
    if (!all) CloseGaps();
  }
  num_messages_ = 0;
  num_elements_ = 0;
}

void Opener::CloseGaps() {
  uint8_t* to = elements_[0].start;
  for (size_t i = 0; i < num_elements_; i++) {
    const Element& element = elements_[i];
    const bool failed = element.message != nullptr && !element.message->ok;
    if (failed) failures_[element.index] = 1;
    if (failed || element.message == nullptr) {
      *to++ = kNil;
    } else {
      std::memmove(to, element.start, element.len);
      to += element.len;
    }
  }
  // Behind it lies plaintext that has moved up.
  Wipe(to, static_cast<size_t>(next_ - to));
  next_ = to;
}

}  // namespace keyfold
