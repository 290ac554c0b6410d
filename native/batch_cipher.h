// Sealer and Opener collect the messages of a batch and hand them to the kernels in groups, in every form that a batch
// has. Each borrows one scratch area, where what it derives lives and is wiped.

#ifndef KEYFOLD_NATIVE_BATCH_CIPHER_H_
#define KEYFOLD_NATIVE_BATCH_CIPHER_H_

#include "bytes.h"
#include "key_table.h"

namespace keyfold {

// Sealer seals messages of one batch: one R, one derived key.
class Sealer {
 public:
  // `xaes` is the sealing key, `r` the batch's own, drawn for it and for nothing else. `message_bytes_hint` is about
  // how long the messages are. `xaes` and `r` stay valid as long as the sealer does.
  Sealer(const AesGcm& gcm, const XaesKey& xaes, uint8_t suite, const uint8_t aad[kMessageAadBytes],
         const uint8_t r[kBatchNonceBytes], size_t message_bytes_hint);
  // The same for a part of the ticket's batch.
  Sealer(const AesGcm& gcm, const TicketSlot& ticket, const XaesKey& xaes, size_t message_bytes_hint);

  // Add writes ciphertext ‖ tag [‖ KC] of `in` to `out`, at the latest when Finish is called. An index never comes
  // twice.
  void Add(uint8_t* out, const Span& in, uint32_t index) {
    messages_[num_messages_++] = {in.data, out, in.len, index, false};
    if (num_messages_ == kGcmGroup) Flush();
  }
  void Finish() { Flush(); }

 private:
  void Init(const uint8_t kx[32], const uint8_t aad[kMessageAadBytes], size_t message_bytes_hint);
  void Flush();

  const AesGcm& gcm_;
  const XaesKey& xaes_;
  const uint8_t* r_;
  uint8_t suite_;
  GcmAad aad_;
  Scratch scratch_;
  size_t num_messages_ = 0;
  GcmMessage messages_[kGcmGroup];
};

// Opener opens messages in any order of keys and nonces and writes them as elements, one behind the other: where one
// does not open there is a nil, and what follows moves up. Neighbours of one batch share its derived key.
class Opener {
 public:
  // `out` has room for all elements as if every message opened.
  Opener(uint8_t* out, uint8_t* failures, const AesGcm& gcm, const uint8_t context_hash[32])
      : gcm_(gcm), next_(out), failures_(failures), context_hash_(context_hash) {}

  // AddNil writes the element of a message that there is no key for (`failed` false) or that cannot open.
  void AddNil(size_t message, bool failed);

  // Add opens `sealed` (at least the suite's overhead long) under `key`, which stays pinned as long as the opener lives.
  void Add(size_t message, const KeySlot& key, const uint8_t nonce[kXaesNonceBytes], const Span& sealed);

  // Finish returns the end of what was written.
  uint8_t* Finish() {
    Flush();
    return next_;
  }

 private:
  struct Element {
    uint8_t* start;
    const GcmMessage* message;  // nullptr: nil
    size_t len;
    size_t index;  // of the message, for failures
  };

  void Derive(const KeySlot& key, const uint8_t* nonce, size_t message_bytes);
  void Flush();
  void CloseGaps();

  const AesGcm& gcm_;
  uint8_t* next_;
  uint8_t* failures_;
  const uint8_t* context_hash_;
  const KeySlot* key_ = nullptr;
  // R of the messages collected: its first twelve bytes derive the key, the last eight begin each GCM nonce.
  uint8_t r_[kBatchNonceBytes];
  GcmAad aad_;
  Scratch scratch_;
  size_t num_messages_ = 0;
  size_t num_elements_ = 0;
  GcmMessage messages_[kGcmGroup];
  Element elements_[kGcmGroup];
};

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_BATCH_CIPHER_H_
