// Packed batches: tickets, parts, and the batch tag around them.

#include "packed_batch.h"

#include <cstring>
#include <memory>

#include "batch_cipher.h"
#include "keys.h"
#include "message_batch.h"
#include "msgpack.h"

namespace keyfold {
namespace {

constexpr uint8_t kPackedVersion = 0xe3;
constexpr uint32_t kBatchTagIndex = 0xffffffff;
constexpr char kLabel[] = "keyfold/packed/v1";
constexpr size_t kLabelBytes = sizeof(kLabel) - 1;
constexpr size_t kLengthBytes = 4;

struct PackedLayout {
  uint8_t suite;
  Span key_entry;
  const uint8_t* r;
  size_t count;
  const uint8_t* lengths;
  const uint8_t* sealed;
  const uint8_t* tag;

  size_t PlaintextBytes(size_t message) const { return ReadU32(lengths + kLengthBytes * message); }
};

// Checks every count and length against the bytes that are there.
bool ParsePacked(const Span& packed, PackedLayout* layout) {
  constexpr size_t kCommitmentEnd = 2 + 32;
  if (packed.len < kCommitmentEnd + 2 || packed.data[0] != kPackedVersion) return false;
  layout->suite = packed.data[1];
  if (layout->suite != 1 && layout->suite != 2) return false;
  const uint8_t* wrapped = packed.data + kCommitmentEnd;
  const size_t wrapped_len = static_cast<size_t>(wrapped[0]) << 8 | wrapped[1];
  const size_t r_at = kCommitmentEnd + 2 + wrapped_len;
  const size_t lengths_at = r_at + kBatchNonceBytes + 4;
  if (wrapped_len == 0 || packed.len < lengths_at + kGcmTagBytes) return false;
  layout->key_entry = {packed.data + 2, r_at - 2};
  layout->r = packed.data + r_at;
  layout->count = ReadU32(layout->r + kBatchNonceBytes);
  if (layout->count == 0 || layout->count > kBatchMessagesMax) return false;
  layout->lengths = packed.data + lengths_at;
  layout->tag = packed.data + packed.len - kGcmTagBytes;
  size_t left = static_cast<size_t>(layout->tag - layout->lengths);
  if (left < kLengthBytes * layout->count) return false;
  left -= kLengthBytes * layout->count;
  layout->sealed = layout->lengths + kLengthBytes * layout->count;
  const size_t overhead = SealedOverhead(layout->suite);
  for (size_t i = 0; i < layout->count; i++) {
    const size_t len = layout->PlaintextBytes(i);
    if (len > kMessageBytesMax || len + overhead > left) return false;
    left -= len + overhead;
  }
  return left == 0;
}

// The batch tag is the GCM tag of nothing with the index FFFFFFFF, over label ‖ message AAD ‖ count ‖ lengths ‖ tag
// [‖ KC] of each message. The kernels take an AAD in one piece; none of this one is secret.
void ComputeBatchTag(uint8_t tag[kGcmTagBytes], ScratchArea* scratch, const AesGcm& gcm, const uint8_t kx[32],
                     const uint8_t message_aad[kMessageAadBytes], const PackedLayout& layout) {
  const size_t overhead = SealedOverhead(layout.suite);
  const size_t lengths_len = kLengthBytes * layout.count;
  const size_t aad_len = kLabelBytes + kMessageAadBytes + 4 + lengths_len + overhead * layout.count;
  const std::unique_ptr<uint8_t[]> aad(new uint8_t[aad_len]);
  uint8_t* at = aad.get();
  std::memcpy(at, kLabel, kLabelBytes);
  at += kLabelBytes;
  std::memcpy(at, message_aad, kMessageAadBytes);
  at += kMessageAadBytes;
  WriteU32(at, static_cast<uint32_t>(layout.count));
  at += 4;
  std::memcpy(at, layout.lengths, lengths_len);
  at += lengths_len;
  const uint8_t* sealed = layout.sealed;
  for (size_t i = 0; i < layout.count; i++) {
    const size_t len = layout.PlaintextBytes(i) + overhead;
    // The value was parsed, but it may lie on memory that others can write to.
    if (len > static_cast<size_t>(layout.tag - sealed)) break;
    sealed += len;
    std::memcpy(at, sealed - overhead, overhead);
    at += overhead;
  }
  gcm.init(&scratch->gcm, kx, aad_len);
  GcmAad hashed;
  gcm.hash_aad(&hashed, &scratch->gcm, aad.get(), static_cast<size_t>(at - aad.get()));
  GcmMessage message{aad.get(), tag, 0, kBatchTagIndex, false};
  gcm.seal_many(&scratch->gcm, hashed, layout.r + 12, &message, 1);
}

}  // namespace

Status BeginPacked(const AesGcm& gcm, Handle key, const uint8_t context_hash[32], size_t num_messages,
                   const uint32_t* first_messages, size_t num_parts, Handle* ticket) {
  if (num_messages == 0 || num_messages > kBatchMessagesMax) return Status::kMisuse;
  if (num_parts == 0 || num_parts > kPartsMax || first_messages[0] != 0) return Status::kMisuse;
  for (size_t i = 1; i < num_parts; i++) {
    if (first_messages[i] <= first_messages[i - 1] || first_messages[i] >= num_messages) return Status::kMisuse;
  }
  Pin pin(key, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  if (!pin.key()->seals) return Status::kMisuse;
  Slot* slot;
  const Status status = NewSlot(Kind::kTicket, &slot, ticket);
  if (status != Status::kOk) return status;
  TicketSlot* fresh = &slot->ticket;
  fresh->message_key = key;
  DrawNonce(fresh->r, kBatchNonceBytes);
  XaesDerive(fresh->kx, gcm, pin.key()->xaes, fresh->r);
  fresh->suite = pin.key()->suite;
  MessageAad(fresh->aad, *pin.key(), context_hash);
  fresh->num_messages = static_cast<uint32_t>(num_messages);
  fresh->num_parts = static_cast<uint32_t>(num_parts);
  for (size_t i = 0; i < num_parts; i++) fresh->first_messages[i] = static_cast<uint16_t>(first_messages[i]);
  UnpinSlot(slot);
  return Status::kOk;
}

Status SealPackedPart(uint8_t* lengths, size_t lengths_len, uint8_t* sealed, size_t sealed_len, const AesGcm& gcm,
                      Handle handle, size_t part, const Span& in, size_t* bad_message) {
  Pin pin(handle, Kind::kTicket);
  if (pin.slot() == nullptr) return Status::kStale;
  TicketSlot* ticket = pin.ticket();
  if (part >= ticket->num_parts) return Status::kMisuse;
  const uint64_t bit = 1ull << part;
  // From here on this part's indices are used up, whether it is sealed or not.
  if ((ticket->claimed.fetch_or(bit, std::memory_order_acq_rel) & bit) != 0) return Status::kMisuse;
  // Suite 2 commits with the message key itself.
  Pin key(ticket->message_key, Kind::kMessageKey);
  if (key.slot() == nullptr) return Status::kStale;

  const size_t first = ticket->first_messages[part];
  const size_t end = part + 1 < ticket->num_parts ? ticket->first_messages[part + 1] : ticket->num_messages;
  const Elements elements = {in.data, in.len, end - first};
  const size_t overhead = SealedOverhead(ticket->suite);
  Part whole;
  size_t num_parts;
  const Status planned = PlanParts(&whole, &num_parts, 1, elements, overhead, false, bad_message);
  *bad_message += first;
  if (planned != Status::kOk) return planned;
  if (whole.plaintext_bytes + elements.count * overhead > sealed_len) return Status::kMisuse;
  if (kLengthBytes * end > lengths_len) return Status::kMisuse;

  Sealer sealer(gcm, *ticket, key.key()->xaes, whole.plaintext_bytes / elements.count);
  Walker walker(elements, false);
  uint8_t* at = sealed;
  for (size_t i = first; i < end; i++) {
    Span element;
    bool nil;
    // All of this was checked, but on memory that others can write to.
    if (!walker.Next(&element, &nil)) return Status::kMisuse;
    if (element.len + overhead > static_cast<size_t>(sealed + sealed_len - at)) return Status::kMisuse;
    WriteU32(lengths + kLengthBytes * i, static_cast<uint32_t>(element.len));
    sealer.Add(at, element, static_cast<uint32_t>(i));
    at += element.len + overhead;
  }
  sealer.Finish();
  ticket->sealed.fetch_or(bit, std::memory_order_acq_rel);
  return Status::kOk;
}

Status FinishPacked(uint8_t* packed, size_t packed_len, const AesGcm& gcm, Handle handle, const Span& key_entry) {
  Pin pin(handle, Kind::kTicket);
  if (pin.slot() == nullptr) return Status::kStale;
  const TicketSlot& ticket = *pin.ticket();
  // Whoever ends the ticket is the one who tags: a second finish finds it gone. The pin keeps what it holds until then.
  if (ReleaseSlot(handle) != Status::kOk) return Status::kStale;
  const uint64_t all = ~0ull >> (kPartsMax - ticket.num_parts);
  if (ticket.sealed.load(std::memory_order_acquire) != all) return Status::kMisuse;
  if (packed_len < 2 + key_entry.len + kBatchNonceBytes + 4) return Status::kMisuse;
  packed[0] = kPackedVersion;
  packed[1] = ticket.suite;
  std::memcpy(packed + 2, key_entry.data, key_entry.len);
  std::memcpy(packed + 2 + key_entry.len, ticket.r, kBatchNonceBytes);
  WriteU32(packed + 2 + key_entry.len + kBatchNonceBytes, ticket.num_messages);
  PackedLayout layout;
  if (!ParsePacked({packed, packed_len}, &layout) || layout.key_entry.len != key_entry.len) return Status::kMisuse;
  Scratch scratch;
  ComputeBatchTag(packed + packed_len - kGcmTagBytes, scratch.area(), gcm, ticket.kx, ticket.aad, layout);
  return Status::kOk;
}

Status VerifyPacked(const AesGcm& gcm, Handle handle, const uint8_t context_hash[32], const Span& packed) {
  PackedLayout layout;
  if (!ParsePacked(packed, &layout)) return Status::kNotAMessage;
  Pin pin(handle, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  const KeySlot& key = *pin.key();
  if (key.suite != layout.suite) return Status::kDecryptFailed;
  uint8_t aad[kMessageAadBytes];
  MessageAad(aad, key, context_hash);
  Scratch scratch;
  XaesDerive(scratch->kx, gcm, key.xaes, layout.r);
  uint8_t tag[kGcmTagBytes];
  ComputeBatchTag(tag, scratch.area(), gcm, scratch->kx, aad, layout);
  return EqualBytes(tag, layout.tag, kGcmTagBytes) ? Status::kOk : Status::kDecryptFailed;
}

Status OpenPackedPart(uint8_t* out, size_t out_len, size_t* written, uint8_t* failures, const AesGcm& gcm,
                      Handle handle, const uint8_t context_hash[32], const Span& packed, size_t first_message,
                      size_t num_messages, size_t sealed_offset) {
  PackedLayout layout;
  if (!ParsePacked(packed, &layout)) return Status::kNotAMessage;
  if (num_messages > layout.count || first_message > layout.count - num_messages) return Status::kMisuse;
  if (sealed_offset < static_cast<size_t>(layout.sealed - packed.data) || sealed_offset > packed.len - kGcmTagBytes) {
    return Status::kMisuse;
  }
  Pin pin(handle, Kind::kMessageKey);
  if (pin.slot() == nullptr) return Status::kStale;
  const KeySlot& key = *pin.key();
  if (key.suite != layout.suite) return Status::kDecryptFailed;

  const size_t overhead = SealedOverhead(key.suite);
  size_t needed = 0;
  for (size_t i = 0; i < num_messages; i++) needed += ElementBytes(layout.PlaintextBytes(first_message + i));
  if (needed > out_len) return Status::kMisuse;

  Opener opener(out, failures, gcm, context_hash);
  uint8_t nonce[kXaesNonceBytes];
  std::memcpy(nonce, layout.r, kBatchNonceBytes);
  Span sealed = {packed.data + sealed_offset, static_cast<size_t>(layout.tag - packed.data) - sealed_offset};
  size_t left = out_len;
  for (size_t i = 0; i < num_messages; i++) {
    const size_t len = layout.PlaintextBytes(first_message + i);
    // All of this was checked, but on memory that others can write to; and where the part begins is the caller's word.
    if (len + overhead > sealed.len || ElementBytes(len) > left) return Status::kMisuse;
    WriteU32(nonce + kBatchNonceBytes, static_cast<uint32_t>(first_message + i));
    opener.Add(i, key, nonce, {sealed.data, len + overhead});
    sealed = {sealed.data + len + overhead, sealed.len - len - overhead};
    left -= ElementBytes(len);
  }
  *written = static_cast<size_t>(opener.Finish() - out);
  return Status::kOk;
}

}  // namespace keyfold
