// Batches of inline and detached messages: planned, sealed, scanned, opened, and moved to other key entries.

#include "message_batch.h"

#include <cstring>
#include <initializer_list>

#include "batch_cipher.h"
#include "entry_index.h"
#include "keys.h"
#include "message_layout.h"

namespace keyfold {
namespace {

// Slicer cuts a batch while it is walked.
class Slicer {
 public:
  Slicer(Part* parts, size_t max_parts, const Elements& in) : parts_(parts), in_(in) {
    max_parts_ = max_parts > kPartsMax ? kPartsMax : max_parts;
    if (max_parts_ > in_.count) max_parts_ = in_.count;
    if (max_parts_ == 0) max_parts_ = 1;
    per_part_ = (in_.len + max_parts_ - 1) / max_parts_;
  }

  void Add(size_t message, const uint8_t* end, size_t plaintext_bytes, size_t output_bytes) {
    open_.num_messages++;
    open_.plaintext_bytes += plaintext_bytes;
    open_.output_bytes += output_bytes;
    open_.input_end = static_cast<size_t>(end - in_.data);
    const bool full = open_.input_end - open_.input_offset >= per_part_;
    if (full && num_parts_ + 1 < max_parts_ && message + 1 < in_.count) {
      parts_[num_parts_++] = open_;
      open_ = {open_.input_end, open_.input_end, message + 1, 0, 0, 0};
    }
  }

  size_t Finish() {
    parts_[num_parts_++] = open_;
    return num_parts_;
  }

 private:
  Part* parts_;
  const Elements& in_;
  size_t max_parts_;
  size_t per_part_;
  size_t num_parts_ = 0;
  Part open_ = {};
};

// KeyPins pins the keys of a batch; those that are 0 are not there.
class KeyPins {
 public:
  KeyPins() = default;
  ~KeyPins() {
    for (size_t i = 0; i < num_; i++) {
      if (slots_[i] != nullptr) UnpinSlot(slots_[i]);
    }
  }
  KeyPins(const KeyPins&) = delete;
  KeyPins& operator=(const KeyPins&) = delete;

  [[nodiscard]] Status Acquire(const Handle* keys, size_t num_keys) {
    if (num_keys > kEntriesMax) return Status::kMisuse;
    for (; num_ < num_keys; num_++) {
      slots_[num_] = keys[num_] == 0 ? nullptr : PinSlot(keys[num_], Kind::kMessageKey);
      if (keys[num_] != 0 && slots_[num_] == nullptr) return Status::kStale;
    }
    return Status::kOk;
  }

  const KeySlot* Find(uint16_t entry) const {
    return entry < num_ && slots_[entry] != nullptr ? &slots_[entry]->key : nullptr;
  }

 private:
  size_t num_ = 0;
  Slot* slots_[kEntriesMax];
};

// Whether the message is one of this key's suite; where it is, its layout.
bool IsOpenable(const KeySlot* key, const Span& message, Layout* layout) {
  return key != nullptr && ParseMessage(message, layout) && layout->suite == key->suite;
}

}  // namespace

Status PlanParts(Part* parts, size_t* num_parts, size_t max_parts, const Elements& in, size_t overhead,
                 bool nil_allowed, size_t* bad_message) {
  Walker walker(in, nil_allowed);
  Slicer slicer(parts, max_parts, in);
  for (size_t i = 0; i < in.count; i++) {
    *bad_message = i;
    Span element;
    bool nil;
    if (!walker.Next(&element, &nil)) return Status::kMalformed;
    if (element.len > kMessageBytesMax) return Status::kTooLong;
    slicer.Add(i, walker.at(), element.len, nil ? 1 : ElementBytes(element.len + overhead));
  }
  *bad_message = in.count;
  if (!walker.AtEnd()) return Status::kMalformed;
  *num_parts = slicer.Finish();
  return Status::kOk;
}

Status SealBatch(uint8_t* out, size_t out_len, size_t* written, const AesGcm& gcm, Handle key,
                 const uint8_t context_hash[32], const Span& key_entry, bool nil_allowed, const Elements& in,
                 size_t* bad_message) {
  if (in.count > kBatchMessagesMax) return Status::kMisuse;
  Pin pin(key, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  const KeySlot& slot = *pin.key();
  if (!slot.seals) return Status::kMisuse;

  const bool is_inline = key_entry.len > 0;
  const Span reference = is_inline ? key_entry : Span{slot.commitment, kDataKeyIdBytes};
  const size_t prefix = 2 + reference.len + kXaesNonceBytes;
  const size_t overhead = prefix + SealedOverhead(slot.suite);
  Part whole;
  size_t num_parts;
  const Status planned = PlanParts(&whole, &num_parts, 1, in, overhead, nil_allowed, bad_message);
  if (planned != Status::kOk) return planned;
  if (whole.output_bytes > out_len) return Status::kMisuse;

  uint8_t nonce[kXaesNonceBytes];
  DrawNonce(nonce, kBatchNonceBytes);
  uint8_t aad[kMessageAadBytes];
  MessageAad(aad, slot, context_hash);
  Sealer sealer(gcm, slot.xaes, slot.suite, aad, nonce, in.count == 0 ? 0 : whole.plaintext_bytes / in.count);
  Walker walker(in, nil_allowed);
  uint8_t* at = out;
  for (size_t i = 0; i < in.count; i++) {
    Span element;
    bool nil;
    // All of this was checked, but on memory that others can write to.
    if (!walker.Next(&element, &nil)) return Status::kMisuse;
    const size_t len = element.len + overhead;
    if ((nil ? 1 : ElementBytes(len)) > static_cast<size_t>(out + out_len - at)) return Status::kMisuse;
    if (nil) {
      *at++ = kNil;
      continue;
    }
    at = WriteElementHead(at, len);
    at[0] = is_inline ? kInlineVersion : kDetachedVersion;
    at[1] = slot.suite;
    std::memcpy(at + 2, reference.data, reference.len);
    WriteU32(nonce + kBatchNonceBytes, static_cast<uint32_t>(i));
    std::memcpy(at + 2 + reference.len, nonce, kXaesNonceBytes);
    sealer.Add(at + prefix, element, static_cast<uint32_t>(i));
    at += len;
  }
  sealer.Finish();
  *written = static_cast<size_t>(at - out);
  return Status::kOk;
}

Status ScanMessages(NamedEntry entries[kEntriesMax], size_t* num_entries, uint16_t* entry_of, Part* parts,
                    size_t* num_parts, size_t max_parts, const uint8_t context_hash[32], const Span* callers,
                    size_t num_callers, const Elements& in, size_t* bad_message) {
  if (num_callers > kEntriesMax) return Status::kTooManyEntries;
  Walker walker(in, false);
  Slicer slicer(parts, max_parts, in);
  EntryIndex index(entries, callers, num_callers);
  for (size_t i = 0; i < in.count; i++) {
    *bad_message = i;
    Span element;
    bool nil;
    if (!walker.Next(&element, &nil)) return Status::kMalformed;
    Layout layout;
    if (!ParseMessage(element, &layout)) {
      entry_of[i] = kEntryMalformed;
      slicer.Add(i, walker.at(), 0, 1);
      continue;
    }
    const size_t len = layout.PlaintextBytes();
    if (len > kMessageBytesMax) return Status::kTooLong;
    const uint16_t entry = index.Find(layout);
    if (entry == kEntryMalformed) return Status::kTooManyEntries;
    entry_of[i] = entry;
    if (entry == kEntryUnknown) {
      slicer.Add(i, walker.at(), 0, 1);
      continue;
    }
    entries[entry].num_messages++;
    slicer.Add(i, walker.at(), len, ElementBytes(len));
  }
  *bad_message = in.count;
  if (!walker.AtEnd()) return Status::kMalformed;
  *num_entries = index.num_entries();
  *num_parts = slicer.Finish();
  for (size_t i = 0; i < *num_entries; i++) {
    Sha256 hash;
    Sha256Init(&hash);
    Sha256Update(&hash, &entries[i].suite, 1);
    Sha256Update(&hash, entries[i].key_entry.data, entries[i].key_entry.len);
    Sha256Update(&hash, context_hash, 32);
    Sha256Final(entries[i].cache_id, &hash);
  }
  return Status::kOk;
}

Status OpenBatch(uint8_t* out, size_t out_len, size_t* written, uint8_t* failures, const AesGcm& gcm,
                 const Handle* keys, size_t num_keys, const uint16_t* entry_of, const uint8_t context_hash[32],
                 const Elements& in, size_t* bad_message) {
  KeyPins pins;
  const Status pinned = pins.Acquire(keys, num_keys);
  if (pinned != Status::kOk) return pinned;

  size_t needed = 0;
  Walker measured(in, false);
  for (size_t i = 0; i < in.count; i++) {
    *bad_message = i;
    Span element;
    bool nil;
    if (!measured.Next(&element, &nil)) return Status::kMalformed;
    Layout layout;
    needed += IsOpenable(pins.Find(entry_of[i]), element, &layout) ? ElementBytes(layout.PlaintextBytes()) : 1;
  }
  *bad_message = in.count;
  if (!measured.AtEnd()) return Status::kMalformed;
  if (needed > out_len) return Status::kMisuse;

  Opener opener(out, failures, gcm, context_hash);
  Walker walker(in, false);
  size_t left = out_len;
  for (size_t i = 0; i < in.count; i++) {
    Span element;
    bool nil;
    // All of this was checked, but on memory that others can write to.
    if (!walker.Next(&element, &nil)) return Status::kMisuse;
    const KeySlot* key = pins.Find(entry_of[i]);
    Layout layout;
    const bool openable = IsOpenable(key, element, &layout);
    const size_t bytes = openable ? ElementBytes(layout.PlaintextBytes()) : 1;
    if (bytes > left) return Status::kMisuse;
    left -= bytes;
    if (openable) {
      opener.Add(i, *key, layout.nonce, layout.sealed);
    } else {
      opener.AddNil(i, key != nullptr);
    }
  }
  *written = static_cast<size_t>(opener.Finish() - out);
  return Status::kOk;
}

Status ReplaceKeyEntries(uint8_t* out, size_t out_len, size_t* written, const Span* key_entries, size_t num_entries,
                         const uint16_t* entry_of, const Elements& in, size_t* bad_message) {
  // Once to measure, once to write.
  for (const bool writes : {false, true}) {
    Walker walker(in, false);
    uint8_t* at = out;
    size_t left = out_len;
    for (size_t i = 0; i < in.count; i++) {
      *bad_message = i;
      Span element;
      bool nil;
      if (!walker.Next(&element, &nil)) return Status::kMalformed;
      const Span entry = entry_of[i] < num_entries ? key_entries[entry_of[i]] : Span{nullptr, 0};
      Layout layout;
      const bool replaced = entry.len > 0 && ParseMessage(element, &layout) && layout.is_inline;
      const size_t rest = replaced ? kXaesNonceBytes + layout.sealed.len : 0;
      const size_t len = 2 + entry.len + rest;
      const size_t bytes = replaced ? ElementBytes(len) : 1;
      if (bytes > left) return Status::kMisuse;
      left -= bytes;
      if (!writes) continue;
      if (!replaced) {
        *at++ = kNil;
        continue;
      }
      at = WriteElementHead(at, len);
      std::memcpy(at, element.data, 2);
      std::memcpy(at + 2, entry.data, entry.len);
      std::memcpy(at + 2 + entry.len, layout.nonce, rest);
      at += len;
    }
    *bad_message = in.count;
    if (!walker.AtEnd()) return Status::kMalformed;
    *written = static_cast<size_t>(at - out);
  }
  return Status::kOk;
}

}  // namespace keyfold
