#include "message_batch.h"

#include <cstring>

#include "wipe.h"

namespace keyfold {
namespace {

constexpr uint8_t kInlineVersion = 0xe1;
constexpr uint8_t kDetachedVersion = 0xe2;
constexpr uint8_t kNil = 0xc0;
constexpr size_t kCommitmentBytes = 32;
constexpr size_t kDataKeyIdBytes = 16;

// Layout says where the parts of a message begin.
struct Layout {
  uint8_t suite;
  bool inline_form;
  Bytes reference;  // key entry, or data key id
  const uint8_t* nonce;
  Bytes sealed;
};

bool ParseMessage(const Bytes& message, Layout* layout) {
  if (message.len < 2) return false;
  layout->suite = message.data[1];
  if (layout->suite != 1 && layout->suite != 2) return false;
  size_t reference_len;
  if (message.data[0] == kInlineVersion) {
    if (message.len < 2 + kCommitmentBytes + 2) return false;
    const uint8_t* length = message.data + 2 + kCommitmentBytes;
    const size_t wrapped_len = static_cast<size_t>(length[0]) << 8 | length[1];
    if (wrapped_len == 0) return false;
    reference_len = kCommitmentBytes + 2 + wrapped_len;
    layout->inline_form = true;
  } else if (message.data[0] == kDetachedVersion) {
    reference_len = kDataKeyIdBytes;
    layout->inline_form = false;
  } else {
    return false;
  }
  const size_t sealed_at = 2 + reference_len + kXaesNonceBytes;
  if (message.len < sealed_at + SealedOverhead(layout->suite)) return false;
  layout->reference = {message.data + 2, reference_len};
  layout->nonce = message.data + 2 + reference_len;
  layout->sealed = {message.data + sealed_at, message.len - sealed_at};
  // The index is below 65,536: its first two bytes are zero.
  return layout->nonce[20] == 0 && layout->nonce[21] == 0;
}

uint32_t ReadIndex(const uint8_t* nonce) {
  return static_cast<uint32_t>(nonce[22]) << 8 | nonce[23];
}

bool SameBytes(const Bytes& a, const Bytes& b) {
  return a.len == b.len && std::memcmp(a.data, b.data, a.len) == 0;
}

// Opening collects messages under one derived key and opens them together.
class Opener {
 public:
  Opener(const AesGcm& gcm, uint8_t* out, uint8_t* failures, const uint8_t* context_hash)
      : gcm_(gcm), next_(out), failures_(failures), context_hash_(context_hash) {}

  // The place of a message without a key.
  void AddNil(size_t message, bool failed) {
    if (num_items_ == kGcmGroup) Flush();
    failures_[message] = failed ? 1 : 0;
    items_[num_items_++] = {next_, nullptr, 0};
    *next_++ = kNil;
  }

  void Add(size_t message, const KeySlot* key, const Layout& layout) {
    if (num_items_ == kGcmGroup) Flush();
    if (key != key_ || std::memcmp(nonce_, layout.nonce, sizeof(nonce_)) != 0) {
      Flush();
      Derive(key, layout);
    }
    const size_t len = layout.sealed.len - SealedOverhead(key->suite);
    if (key->suite == 2) {
      uint8_t kc[kKcBytes];
      KcCommit(kc, gcm_, key->xaes, scratch_->x, layout.nonce + 12);
      if (!EqualBytes(kc, layout.sealed.data + len + kGcmTagBytes, kKcBytes)) {
        AddNil(message, true);
        return;
      }
    }
    failures_[message] = 0;
    uint8_t* plaintext = WriteElementHead(next_, len);
    GcmMessage* gcm_message = &messages_[num_messages_];
    message_of_[num_messages_++] = message;
    *gcm_message = {layout.sealed.data, plaintext, len, ReadIndex(layout.nonce), false};
    items_[num_items_++] = {next_, gcm_message, static_cast<size_t>(plaintext - next_) + len};
    next_ = plaintext + len;
  }

  uint8_t* Finish() {
    Flush();
    return next_;
  }

 private:
  struct Item {
    uint8_t* start;
    const GcmMessage* message;  // nullptr: a nil
    size_t len;                 // of head and plaintext
  };

  void Derive(const KeySlot* key, const Layout& layout) {
    const size_t len = layout.sealed.len - SealedOverhead(key->suite);
    key_ = key;
    std::memcpy(nonce_, layout.nonce, sizeof(nonce_));
    XaesDerive(scratch_->kx, gcm_, key->xaes, layout.nonce);
    gcm_.init(&scratch_->gcm, scratch_->kx, len);
    uint8_t aad[kMessageAadBytes];
    MessageAad(aad, *key, context_hash_);
    gcm_.hash_aad(&aad_, &scratch_->gcm, aad, sizeof(aad));
    if (key->suite == 2) KcInit(scratch_->x, gcm_, key->xaes, layout.nonce);
  }

  // Opens what was collected. Where a message failed, its place shrinks to a nil and what follows moves up.
  void Flush() {
    if (num_messages_ > 0) {
      gcm_.open_many(&scratch_->gcm, aad_, nonce_ + 12, messages_, num_messages_);
      bool all = true;
      for (size_t i = 0; i < num_messages_; i++) {
        if (messages_[i].ok) continue;
        all = false;
        failures_[message_of_[i]] = 1;
      }
      if (!all) Compact();
    }
    num_items_ = 0;
    num_messages_ = 0;
  }

  void Compact() {
    uint8_t* to = items_[0].start;
    for (size_t i = 0; i < num_items_; i++) {
      const Item& item = items_[i];
      if (item.message == nullptr || !item.message->ok) {
        *to++ = kNil;
      } else {
        std::memmove(to, item.start, item.len);
        to += item.len;
      }
    }
    next_ = to;
  }

  const AesGcm& gcm_;
  uint8_t* next_;
  uint8_t* failures_;
  const uint8_t* context_hash_;
  const KeySlot* key_ = nullptr;
  // R's twenty bytes: the first twelve derive the key, the next eight begin every GCM nonce.
  uint8_t nonce_[kBatchNonceBytes] = {};
  GcmAad aad_ = {};
  Scratch scratch_;
  GcmMessage messages_[kGcmGroup];
  size_t message_of_[kGcmGroup];
  size_t num_messages_ = 0;
  Item items_[kGcmGroup];
  size_t num_items_ = 0;
};

// EntryIndex finds entries by suite and bytes. Open addressing over twice as many places as there can be entries.
class EntryIndex {
 public:
  explicit EntryIndex(NamedEntry* entries) : entries_(entries) {
    for (uint16_t& place : places_) place = kEntryUnknown;
  }

  // Find returns the index of the entry, a new one where it was not met before, or kEntryUnknown where there is no
  // room.
  uint16_t Find(uint8_t suite, const Bytes& key_entry) {
    if (last_ != kEntryUnknown && Is(last_, suite, key_entry)) return last_;
    uint64_t hash;
    std::memcpy(&hash, key_entry.data, sizeof(hash));
    hash = (hash ^ suite) * 0x9e3779b97f4a7c15ull;
    for (size_t place = hash >> 55;; place = (place + 1) % kPlaces) {
      const uint16_t index = places_[place];
      if (index == kEntryUnknown) {
        if (num_entries_ == kEntriesMax) return kEntryUnknown;
        entries_[num_entries_].suite = suite;
        entries_[num_entries_].key_entry = key_entry;
        entries_[num_entries_].num_messages = 0;
        places_[place] = static_cast<uint16_t>(num_entries_);
        return last_ = static_cast<uint16_t>(num_entries_++);
      }
      if (Is(index, suite, key_entry)) return last_ = index;
    }
  }

  size_t num_entries() const { return num_entries_; }

 private:
  static constexpr size_t kPlaces = 512;
  static_assert(kPlaces == 2 * kEntriesMax, "a 9-bit hash");

  bool Is(uint16_t index, uint8_t suite, const Bytes& key_entry) const {
    return entries_[index].suite == suite && SameBytes(entries_[index].key_entry, key_entry);
  }

  NamedEntry* entries_;
  size_t num_entries_ = 0;
  uint16_t last_ = kEntryUnknown;
  uint16_t places_[kPlaces];
};

// Slicer cuts a batch while it is walked.
class Slicer {
 public:
  Slicer(Part* parts, size_t max_parts, const Elements& in)
      : parts_(parts), base_(in.data), num_messages_(in.count) {
    max_parts_ = max_parts < 1 ? 1 : max_parts > kPartsMax ? kPartsMax : max_parts;
    if (max_parts_ > in.count) max_parts_ = in.count;
    per_part_ = max_parts_ == 0 ? 0 : (in.len + max_parts_ - 1) / max_parts_;
    open_ = {};
  }

  void Add(size_t message, const uint8_t* end, size_t plaintext_bytes, size_t output_bytes) {
    open_.num_messages++;
    open_.plaintext_bytes += plaintext_bytes;
    open_.output_bytes += output_bytes;
    open_.input_end = static_cast<size_t>(end - base_);
    const bool full = open_.input_end - open_.input_offset >= per_part_;
    if (full && num_parts_ + 1 < max_parts_ && message + 1 < num_messages_) {
      parts_[num_parts_++] = open_;
      const size_t next = open_.input_end;
      open_ = {};
      open_.input_offset = next;
      open_.first_message = message + 1;
    }
  }

  size_t Finish() {
    parts_[num_parts_++] = open_;
    return num_parts_;
  }

 private:
  Part* parts_;
  const uint8_t* base_;
  size_t num_messages_;
  size_t max_parts_;
  size_t per_part_;
  size_t num_parts_ = 0;
  Part open_;
};

}  // namespace

bool Walker::Next(Bytes* element, bool* nil) {
  *nil = false;
  if (at_ == end_) return false;
  const size_t left = static_cast<size_t>(end_ - at_);
  size_t head;
  size_t len;
  switch (at_[0]) {
    case 0xc4:
      if (left < 2) return false;
      head = 2;
      len = at_[1];
      break;
    case 0xc5:
      if (left < 3) return false;
      head = 3;
      len = static_cast<size_t>(at_[1]) << 8 | at_[2];
      break;
    case 0xc6:
      if (left < 5) return false;
      head = 5;
      len = static_cast<size_t>(at_[1]) << 24 | static_cast<size_t>(at_[2]) << 16 |
            static_cast<size_t>(at_[3]) << 8 | at_[4];
      break;
    case kNil:
      if (!nil_allowed_) return false;
      *nil = true;
      at_++;
      *element = {at_, 0};
      return true;
    default:
      return false;
  }
  if (len > left - head) return false;
  *element = {at_ + head, len};
  at_ += head + len;
  return true;
}

uint8_t* WriteElementHead(uint8_t* out, size_t len) {
  if (len < 0x100) {
    out[0] = 0xc4;
    out[1] = static_cast<uint8_t>(len);
    return out + 2;
  }
  if (len < 0x10000) {
    out[0] = 0xc5;
    out[1] = static_cast<uint8_t>(len >> 8);
    out[2] = static_cast<uint8_t>(len);
    return out + 3;
  }
  out[0] = 0xc6;
  out[1] = static_cast<uint8_t>(len >> 24);
  out[2] = static_cast<uint8_t>(len >> 16);
  out[3] = static_cast<uint8_t>(len >> 8);
  out[4] = static_cast<uint8_t>(len);
  return out + 5;
}

Status PlanParts(Part* parts, size_t max_parts, size_t* num_parts, const Elements& in,
                 size_t overhead, bool nil_allowed, size_t* bad_message) {
  Walker walker(in, nil_allowed);
  Slicer slicer(parts, max_parts, in);
  Bytes element;
  bool nil;
  for (size_t i = 0; i < in.count; i++) {
    *bad_message = i;
    if (!walker.Next(&element, &nil)) return Status::kMalformed;
    if (element.len > kMessageBytesMax) return Status::kTooLong;
    const size_t sealed = element.len + overhead;
    slicer.Add(i, walker.at(), element.len, nil ? 1 : ElementHeadBytes(sealed) + sealed);
  }
  *bad_message = in.count;
  if (!walker.AtEnd()) return Status::kMalformed;
  *num_parts = slicer.Finish();
  return Status::kOk;
}

Status SealBatch(uint8_t* out, size_t out_len, size_t* written, const AesGcm& gcm, Handle key,
                 const uint8_t context_hash[32], const Bytes& key_entry, bool nil_allowed,
                 const Elements& in, size_t* bad_message) {
  if (in.count > kBatchMessagesMax) return Status::kMisuse;
  Pin pin(key, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  const KeySlot& slot = *pin.key();
  if (!slot.seals) return Status::kMisuse;

  const bool inline_form = key_entry.len > 0;
  const Bytes reference = inline_form ? key_entry : Bytes{slot.commitment, kDataKeyIdBytes};
  const size_t prefix = 2 + reference.len + kXaesNonceBytes;
  const size_t overhead = prefix + SealedOverhead(slot.suite);
  Part part;
  size_t num_parts;
  const Status planned = PlanParts(&part, 1, &num_parts, in, overhead, nil_allowed, bad_message);
  if (planned != Status::kOk) return planned;
  if (part.output_bytes > out_len) return Status::kMisuse;

  Scratch scratch;
  uint8_t nonce[kXaesNonceBytes] = {};
  DrawBatchNonce(nonce);
  XaesDerive(scratch->kx, gcm, slot.xaes, nonce);
  gcm.init(&scratch->gcm, scratch->kx, in.count == 0 ? 0 : part.plaintext_bytes / in.count);
  uint8_t aad[kMessageAadBytes];
  MessageAad(aad, slot, context_hash);
  GcmAad hashed;
  gcm.hash_aad(&hashed, &scratch->gcm, aad, sizeof(aad));
  if (slot.suite == 2) KcInit(scratch->x, gcm, slot.xaes, nonce);

  GcmMessage messages[kGcmGroup];
  size_t collected = 0;
  const auto flush = [&] {
    gcm.seal_many(&scratch->gcm, hashed, nonce + 12, messages, collected);
    if (slot.suite == 2) {
      for (size_t i = 0; i < collected; i++) {
        uint8_t* tag_end = messages[i].out + messages[i].len + kGcmTagBytes;
        // The nonce stands in front of the sealed bytes.
        KcCommit(tag_end, gcm, slot.xaes, scratch->x, messages[i].out - 12);
      }
    }
    collected = 0;
  };

  Walker walker(in, nil_allowed);
  uint8_t* at = out;
  for (size_t i = 0; i < in.count; i++) {
    Bytes element;
    bool nil;
    // Planned already; but the memory may be shared with others, so nothing is taken for granted.
    if (!walker.Next(&element, &nil)) return Status::kMalformed;
    if (nil) {
      *at++ = kNil;
      continue;
    }
    const size_t sealed_len = element.len + overhead;
    if (ElementHeadBytes(sealed_len) + sealed_len > static_cast<size_t>(out + out_len - at)) {
      return Status::kMalformed;
    }
    at = WriteElementHead(at, sealed_len);
    at[0] = inline_form ? kInlineVersion : kDetachedVersion;
    at[1] = slot.suite;
    std::memcpy(at + 2, reference.data, reference.len);
    nonce[22] = static_cast<uint8_t>(i >> 8);
    nonce[23] = static_cast<uint8_t>(i);
    std::memcpy(at + 2 + reference.len, nonce, kXaesNonceBytes);
    messages[collected++] = {element.data, at + prefix, element.len, static_cast<uint32_t>(i),
                             false};
    at += sealed_len;
    if (collected == kGcmGroup) flush();
  }
  if (collected > 0) flush();
  *written = static_cast<size_t>(at - out);
  return Status::kOk;
}

Status ScanMessages(NamedEntry entries[kEntriesMax], size_t* num_entries, uint16_t* entry_of,
                    Part* parts, size_t max_parts, size_t* num_parts,
                    const uint8_t context_hash[32], const Bytes* callers, size_t num_callers,
                    const Elements& in, size_t* bad_message) {
  Walker walker(in, false);
  Slicer slicer(parts, max_parts, in);
  EntryIndex index(entries);
  for (size_t i = 0; i < in.count; i++) {
    *bad_message = i;
    Bytes element;
    bool nil;
    if (!walker.Next(&element, &nil)) return Status::kMalformed;
    Layout layout;
    if (!ParseMessage(element, &layout)) {
      entry_of[i] = kEntryMalformed;
      slicer.Add(i, walker.at(), 0, 1);
      continue;
    }
    const size_t len = layout.sealed.len - SealedOverhead(layout.suite);
    if (len > kMessageBytesMax) return Status::kTooLong;
    const Bytes* key_entry = &layout.reference;
    if (!layout.inline_form) {
      key_entry = nullptr;
      for (size_t c = 0; c < num_callers && key_entry == nullptr; c++) {
        if (std::memcmp(callers[c].data, layout.reference.data, kDataKeyIdBytes) == 0) {
          key_entry = &callers[c];
        }
      }
    }
    if (key_entry == nullptr) {
      entry_of[i] = kEntryUnknown;
      slicer.Add(i, walker.at(), 0, 1);
      continue;
    }
    const uint16_t entry = index.Find(layout.suite, *key_entry);
    if (entry == kEntryUnknown) return Status::kTooManyEntries;
    entries[entry].num_messages++;
    entry_of[i] = entry;
    slicer.Add(i, walker.at(), len, ElementHeadBytes(len) + len);
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

Status OpenBatch(uint8_t* out, size_t out_len, size_t* written, uint8_t* failures,
                 const AesGcm& gcm, const Handle* keys, size_t num_keys, const uint16_t* entry_of,
                 const uint8_t context_hash[32], const Elements& in, size_t* bad_message) {
  if (num_keys > kEntriesMax) return Status::kMisuse;
  Pin pins[kEntriesMax];
  for (size_t i = 0; i < num_keys; i++) {
    if (keys[i] == 0) continue;
    pins[i].Acquire(keys[i], Kind::kMessageKey);
    if (pins[i].slot() == nullptr) return Status::kStale;
  }
  const uint8_t* out_end = out + out_len;
  uint8_t* bound = out;
  Opener opener(gcm, out, failures, context_hash);
  Walker walker(in, false);
  for (size_t i = 0; i < in.count; i++) {
    *bad_message = i;
    Bytes element;
    bool nil;
    if (!walker.Next(&element, &nil)) return Status::kMalformed;
    const uint16_t entry = entry_of[i];
    const KeySlot* key =
        entry < num_keys && pins[entry].slot() != nullptr ? pins[entry].key() : nullptr;
    Layout layout;
    const bool openable =
        key != nullptr && ParseMessage(element, &layout) && layout.suite == key->suite;
    // Room for all of it as if nothing failed: an upper bound of what the opener writes.
    const size_t len = openable ? layout.sealed.len - SealedOverhead(layout.suite) : 0;
    const size_t needed = openable ? ElementHeadBytes(len) + len : 1;
    if (needed > static_cast<size_t>(out_end - bound)) return Status::kMisuse;
    bound += needed;
    if (openable) {
      opener.Add(i, key, layout);
    } else {
      opener.AddNil(i, key != nullptr);
    }
  }
  *bad_message = in.count;
  if (!walker.AtEnd()) return Status::kMalformed;
  *written = static_cast<size_t>(opener.Finish() - out);
  return Status::kOk;
}

Status ReplaceKeyEntries(uint8_t* out, size_t out_len, size_t* written, const Bytes* key_entries,
                         size_t num_entries, const uint16_t* entry_of, const Elements& in,
                         size_t* bad_message) {
  Walker walker(in, false);
  uint8_t* at = out;
  for (size_t i = 0; i < in.count; i++) {
    *bad_message = i;
    Bytes element;
    bool nil;
    if (!walker.Next(&element, &nil)) return Status::kMalformed;
    const uint16_t entry = entry_of[i];
    Layout layout;
    const bool replaced = entry < num_entries && key_entries[entry].len > 0 &&
                          ParseMessage(element, &layout) && layout.inline_form;
    const size_t rest = replaced ? element.len - 2 - layout.reference.len : 0;
    const size_t len = replaced ? 2 + key_entries[entry].len + rest : 0;
    const size_t needed = replaced ? ElementHeadBytes(len) + len : 1;
    if (needed > static_cast<size_t>(out + out_len - at)) return Status::kMisuse;
    if (!replaced) {
      *at++ = kNil;
      continue;
    }
    at = WriteElementHead(at, len);
    std::memcpy(at, element.data, 2);
    std::memcpy(at + 2, key_entries[entry].data, key_entries[entry].len);
    std::memcpy(at + 2 + key_entries[entry].len, layout.nonce, rest);
    at += len;
  }
  *bad_message = in.count;
  if (!walker.AtEnd()) return Status::kMalformed;
  *written = static_cast<size_t>(at - out);
  return Status::kOk;
}

}  // namespace keyfold
