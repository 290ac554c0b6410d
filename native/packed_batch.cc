#include "packed_batch.h"

#include <cstring>

#include "wipe.h"

namespace keyfold {
namespace {

constexpr uint8_t kPackedVersion = 0xe3;
constexpr uint8_t kNil = 0xc0;
constexpr uint32_t kBatchTagIndex = 0xffffffff;
constexpr char kLabel[] = "keyfold/packed/v1";

uint32_t ReadU32(const uint8_t* in) {
  return static_cast<uint32_t>(in[0]) << 24 | static_cast<uint32_t>(in[1]) << 16 |
         static_cast<uint32_t>(in[2]) << 8 | in[3];
}

void WriteU32(uint8_t* out, uint32_t value) {
  out[0] = static_cast<uint8_t>(value >> 24);
  out[1] = static_cast<uint8_t>(value >> 16);
  out[2] = static_cast<uint8_t>(value >> 8);
  out[3] = static_cast<uint8_t>(value);
}

struct PackedLayout {
  uint8_t suite;
  const uint8_t* r;
  uint32_t count;
  const uint8_t* lengths;
  const uint8_t* sealed;
  const uint8_t* tag;
};

// Every count and length is checked against the bytes that are there.
bool ParsePacked(const Bytes& packed, PackedLayout* layout) {
  constexpr size_t kCommitmentEnd = 2 + 32;
  if (packed.len < kCommitmentEnd + 2 || packed.data[0] != kPackedVersion) return false;
  layout->suite = packed.data[1];
  if (layout->suite != 1 && layout->suite != 2) return false;
  const size_t wrapped_len =
      static_cast<size_t>(packed.data[kCommitmentEnd]) << 8 | packed.data[kCommitmentEnd + 1];
  const size_t r_at = kCommitmentEnd + 2 + wrapped_len;
  const size_t lengths_at = r_at + kBatchNonceBytes + 4;
  if (wrapped_len == 0 || packed.len < lengths_at) return false;
  layout->r = packed.data + r_at;
  layout->count = ReadU32(layout->r + kBatchNonceBytes);
  if (layout->count == 0 || layout->count > kBatchMessagesMax) return false;
  size_t left = packed.len - lengths_at;
  const size_t lengths_len = 4 * static_cast<size_t>(layout->count);
  if (left < lengths_len) return false;
  layout->lengths = packed.data + lengths_at;
  layout->sealed = layout->lengths + lengths_len;
  left -= lengths_len;
  for (uint32_t i = 0; i < layout->count; i++) {
    const size_t len = ReadU32(layout->lengths + 4 * static_cast<size_t>(i));
    if (len > kMessageBytesMax || left < len + SealedOverhead(layout->suite)) return false;
    left -= len + SealedOverhead(layout->suite);
  }
  if (left != kGcmTagBytes) return false;
  layout->tag = packed.data + packed.len - kGcmTagBytes;
  return true;
}

// The batch tag: GCM of nothing with the index FFFFFFFF, over label ‖ message AAD ‖ count ‖ lengths ‖ every tag. The
// AAD is gathered in pieces that are hashed as one: the kernels take it whole, so it is assembled first.
class TagInput {
 public:
  TagInput(const PackedLayout& layout, const uint8_t message_aad[kMessageAadBytes]) {
    const size_t overhead = SealedOverhead(layout.suite);
    const size_t lengths_len = 4 * static_cast<size_t>(layout.count);
    len_ = sizeof(kLabel) - 1 + kMessageAadBytes + 4 + lengths_len + overhead * layout.count;
    data_ = new uint8_t[len_];
    uint8_t* at = data_;
    std::memcpy(at, kLabel, sizeof(kLabel) - 1);
    at += sizeof(kLabel) - 1;
    std::memcpy(at, message_aad, kMessageAadBytes);
    at += kMessageAadBytes;
    WriteU32(at, layout.count);
    std::memcpy(at + 4, layout.lengths, lengths_len);
    at += 4 + lengths_len;
    const uint8_t* sealed = layout.sealed;
    for (uint32_t i = 0; i < layout.count; i++) {
      sealed += ReadU32(layout.lengths + 4 * static_cast<size_t>(i)) + overhead;
      std::memcpy(at, sealed - overhead, overhead);
      at += overhead;
    }
  }
  ~TagInput() { delete[] data_; }
  TagInput(const TagInput&) = delete;
  TagInput& operator=(const TagInput&) = delete;

  // Nothing of it is secret: lengths and tags are public.
  const uint8_t* data() const { return data_; }
  size_t len() const { return len_; }

 private:
  uint8_t* data_;
  size_t len_;
};

void ComputeBatchTag(uint8_t tag[kGcmTagBytes], const AesGcm& gcm, const uint8_t kx[32],
                     const PackedLayout& layout, const uint8_t message_aad[kMessageAadBytes]) {
  Scratch scratch;
  gcm.init(&scratch->gcm, kx, 1u << 16);
  const TagInput input(layout, message_aad);
  GcmAad hashed;
  gcm.hash_aad(&hashed, &scratch->gcm, input.data(), input.len());
  GcmMessage message{tag, tag, 0, kBatchTagIndex, false};
  gcm.seal_many(&scratch->gcm, hashed, layout.r + 12, &message, 1);
}

}  // namespace

Status BeginPacked(const AesGcm& gcm, Handle key, const uint8_t context_hash[32],
                   size_t num_messages, const uint32_t* first_message, size_t num_parts,
                   Handle* handle) {
  if (num_messages == 0 || num_messages > kBatchMessagesMax) return Status::kMisuse;
  if (num_parts == 0 || num_parts > kPartsMax || first_message[0] != 0) return Status::kMisuse;
  for (size_t i = 1; i < num_parts; i++) {
    if (first_message[i] <= first_message[i - 1] || first_message[i] >= num_messages) {
      return Status::kMisuse;
    }
  }
  Pin pin(key, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  if (!pin.key()->seals) return Status::kMisuse;
  Slot* slot;
  const Status status = NewSlot(Kind::kTicket, &slot, handle);
  if (status != Status::kOk) return status;
  TicketSlot* ticket = &slot->ticket;
  DrawBatchNonce(ticket->r);
  XaesDerive(ticket->kx, gcm, pin.key()->xaes, ticket->r);
  MessageAad(ticket->aad, *pin.key(), context_hash);
  ticket->suite = pin.key()->suite;
  if (ticket->suite == 2) KcInit(ticket->x, gcm, pin.key()->xaes, ticket->r);
  ticket->num_messages = static_cast<uint32_t>(num_messages);
  ticket->num_parts = static_cast<uint32_t>(num_parts);
  std::memcpy(ticket->first_message, first_message, num_parts * sizeof(uint32_t));
  ticket->message_key = key;
  ticket->claimed.store(0);
  ticket->sealed.store(0);
  PublishSlot(slot);
  return Status::kOk;
}

Status SealPackedPart(uint8_t* lengths, size_t lengths_len, uint8_t* sealed, size_t sealed_len,
                      const AesGcm& gcm, Handle handle, size_t part, const Bytes& in, size_t* bad_message) {
  Pin pin(handle, Kind::kTicket);
  if (pin.slot() == nullptr) return Status::kStale;
  TicketSlot* ticket = pin.ticket();
  if (part >= ticket->num_parts) return Status::kMisuse;
  if (lengths_len < 4 * static_cast<size_t>(ticket->num_messages)) return Status::kMisuse;
  const size_t first = ticket->first_message[part];
  const size_t end =
      part + 1 < ticket->num_parts ? ticket->first_message[part + 1] : ticket->num_messages;
  const Elements elements{in.data, in.len, end - first};
  const uint64_t bit = 1ull << part;
  // From here on this part's indices are used up, whether it is sealed or not.
  if ((ticket->claimed.fetch_or(bit, std::memory_order_acq_rel) & bit) != 0) return Status::kMisuse;

  // KC needs the message key's schedule; the ticket holds only what is derived for the batch.
  Pin key;
  if (ticket->suite == 2) {
    key.Acquire(ticket->message_key, Kind::kMessageKey);
    if (key.slot() == nullptr) return Status::kStale;
  }
  Scratch scratch;
  gcm.init(&scratch->gcm, ticket->kx, elements.len / elements.count);
  GcmAad hashed;
  gcm.hash_aad(&hashed, &scratch->gcm, ticket->aad, kMessageAadBytes);
  const size_t overhead = SealedOverhead(ticket->suite);
  GcmMessage messages[kGcmGroup];
  size_t collected = 0;
  const auto flush = [&] {
    gcm.seal_many(&scratch->gcm, hashed, ticket->r + 12, messages, collected);
    if (ticket->suite == 2) {
      uint8_t tail[12];
      std::memcpy(tail, ticket->r + 12, 8);
      for (size_t i = 0; i < collected; i++) {
        WriteU32(tail + 8, messages[i].index);
        KcCommit(messages[i].out + messages[i].len + kGcmTagBytes, gcm, key.key()->xaes, ticket->x,
                 tail);
      }
    }
    collected = 0;
  };
  Walker walker(elements, false);
  uint8_t* at = sealed;
  for (size_t i = 0; i < elements.count; i++) {
    *bad_message = first + i;
    Bytes element;
    bool nil;
    if (!walker.Next(&element, &nil)) return Status::kMalformed;
    if (element.len > kMessageBytesMax) return Status::kTooLong;
    if (element.len + overhead > static_cast<size_t>(sealed + sealed_len - at)) {
      return Status::kMisuse;
    }
    WriteU32(lengths + 4 * (first + i), static_cast<uint32_t>(element.len));
    messages[collected++] = {element.data, at, element.len, static_cast<uint32_t>(first + i), false};
    at += element.len + overhead;
    if (collected == kGcmGroup) flush();
  }
  if (!walker.AtEnd()) return Status::kMalformed;
  if (collected > 0) flush();
  ticket->sealed.fetch_or(bit, std::memory_order_acq_rel);
  return Status::kOk;
}

Status FinishPacked(uint8_t* packed, size_t packed_len, const AesGcm& gcm, Handle handle,
                    const Bytes& key_entry) {
  Pin pin(handle, Kind::kTicket);
  if (pin.slot() == nullptr) return Status::kStale;
  TicketSlot* ticket = pin.ticket();
  // Whoever ends the ticket is the one who tags: a second finish finds it gone.
  if (ReleaseSlot(handle) != Status::kOk) return Status::kStale;
  const uint64_t all =
      ticket->num_parts == 64 ? ~0ull : (1ull << ticket->num_parts) - 1;
  if (ticket->sealed.load(std::memory_order_acquire) != all) return Status::kMisuse;
  if (packed_len < 2 + key_entry.len + kBatchNonceBytes + 4) return Status::kMisuse;
  packed[0] = kPackedVersion;
  packed[1] = ticket->suite;
  std::memcpy(packed + 2, key_entry.data, key_entry.len);
  std::memcpy(packed + 2 + key_entry.len, ticket->r, kBatchNonceBytes);
  WriteU32(packed + 2 + key_entry.len + kBatchNonceBytes, ticket->num_messages);
  PackedLayout layout;
  if (!ParsePacked({packed, packed_len}, &layout)) return Status::kMisuse;
  uint8_t tag[kGcmTagBytes];
  ComputeBatchTag(tag, gcm, ticket->kx, layout, ticket->aad);
  std::memcpy(packed + packed_len - kGcmTagBytes, tag, kGcmTagBytes);
  return Status::kOk;
}

Status VerifyPacked(const AesGcm& gcm, Handle key, const uint8_t context_hash[32],
                    const Bytes& packed) {
  PackedLayout layout;
  if (!ParsePacked(packed, &layout)) return Status::kDecryptFailed;
  Pin pin(key, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  if (pin.key()->suite != layout.suite) return Status::kDecryptFailed;
  uint8_t aad[kMessageAadBytes];
  MessageAad(aad, *pin.key(), context_hash);
  Scratch scratch;
  XaesDerive(scratch->kx, gcm, pin.key()->xaes, layout.r);
  uint8_t tag[kGcmTagBytes];
  ComputeBatchTag(tag, gcm, scratch->kx, layout, aad);
  return EqualBytes(tag, layout.tag, kGcmTagBytes) ? Status::kOk : Status::kDecryptFailed;
}

Status OpenPackedPart(uint8_t* out, size_t out_len, size_t* written, uint8_t* failures,
                      const AesGcm& gcm, Handle handle, const uint8_t context_hash[32],
                      const Bytes& packed, size_t first_message, size_t num_messages,
                      size_t sealed_offset) {
  PackedLayout layout;
  if (!ParsePacked(packed, &layout)) return Status::kMisuse;
  if (num_messages > layout.count || first_message > layout.count - num_messages) {
    return Status::kMisuse;
  }
  const uint8_t* in = packed.data + sealed_offset;
  if (in < layout.sealed || in > layout.tag) return Status::kMisuse;
  Pin pin(handle, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  const KeySlot& key = *pin.key();
  if (key.suite != layout.suite) return Status::kMisuse;
  const size_t overhead = SealedOverhead(key.suite);

  Scratch scratch;
  XaesDerive(scratch->kx, gcm, key.xaes, layout.r);
  gcm.init(&scratch->gcm, scratch->kx,
           num_messages == 0 ? 0 : static_cast<size_t>(layout.tag - in) / num_messages);
  uint8_t aad[kMessageAadBytes];
  MessageAad(aad, key, context_hash);
  GcmAad hashed;
  gcm.hash_aad(&hashed, &scratch->gcm, aad, sizeof(aad));
  if (key.suite == 2) KcInit(scratch->x, gcm, key.xaes, layout.r);

  uint8_t* at = out;
  size_t done = 0;
  while (done < num_messages) {
    GcmMessage messages[kGcmGroup];
    uint8_t* starts[kGcmGroup];
    bool committed[kGcmGroup];
    uint8_t* to = at;
    size_t group = 0;
    for (; group < kGcmGroup && done + group < num_messages; group++) {
      const size_t index = first_message + done + group;
      const size_t len = ReadU32(layout.lengths + 4 * index);
      if (len + overhead > static_cast<size_t>(layout.tag - in)) return Status::kMisuse;
      const size_t needed = ElementHeadBytes(len) + len;
      if (needed > static_cast<size_t>(out + out_len - at)) return Status::kMisuse;
      starts[group] = at;
      uint8_t* plaintext = WriteElementHead(at, len);
      messages[group] = {in, plaintext, len, static_cast<uint32_t>(index), false};
      committed[group] = true;
      if (key.suite == 2) {
        uint8_t tail[12];
        uint8_t kc[kKcBytes];
        std::memcpy(tail, layout.r + 12, 8);
        WriteU32(tail + 8, static_cast<uint32_t>(index));
        KcCommit(kc, gcm, key.xaes, scratch->x, tail);
        committed[group] = EqualBytes(kc, in + len + kGcmTagBytes, kKcBytes);
      }
      at = plaintext + len;
      in += len + overhead;
    }
    gcm.open_many(&scratch->gcm, hashed, layout.r + 12, messages, group);
    for (size_t i = 0; i < group; i++) {
      const bool ok = messages[i].ok && committed[i];
      failures[done + i] = ok ? 0 : 1;
      const size_t len = static_cast<size_t>(messages[i].out + messages[i].len - starts[i]);
      if (!ok) {
        Wipe(messages[i].out, messages[i].len);
        *to++ = kNil;
      } else {
        if (to != starts[i]) std::memmove(to, starts[i], len);
        to += len;
      }
    }
    at = to;
    done += group;
  }
  *written = static_cast<size_t>(at - out);
  return Status::kOk;
}

}  // namespace keyfold
