// Batches of inline and detached messages (src/format/message.ts), walked as MessagePack byte strings from the
// request and written as MessagePack byte strings into the response: no object per message on either side.
//
// Every function checks all lengths before it writes to `out`. `bad_message` receives the index of the element that
// made it answer kMalformed or kTooLong; the number of elements, where there are bytes behind the last.

#ifndef KEYFOLD_NATIVE_MESSAGE_BATCH_H_
#define KEYFOLD_NATIVE_MESSAGE_BATCH_H_

#include "key_table.h"
#include "msgpack.h"

namespace keyfold {

inline constexpr size_t kEntriesMax = 256;
inline constexpr uint16_t kEntryMalformed = 0xffff;
inline constexpr uint16_t kEntryUnknown = 0xfffe;

// Part is a slice of a batch for one worker.
struct Part {
  size_t input_offset;  // from Elements::data
  size_t input_end;
  size_t first_message;
  size_t num_messages;
  size_t plaintext_bytes;
  size_t output_bytes;
};

// PlanParts cuts a batch into at most max_parts slices of about the same length (at least 1 and at most kPartsMax);
// `overhead` is what the form adds to a message.
[[nodiscard]] Status PlanParts(Part* parts, size_t* num_parts, size_t max_parts, const Elements& in, size_t overhead,
                               bool nil_allowed, size_t* bad_message);

// SealBatch seals every element under `key`, which must be a message key that seals, with an R of its own. An empty
// key entry means detached messages.
[[nodiscard]] Status SealBatch(uint8_t* out, size_t out_len, size_t* written, const AesGcm& gcm, Handle key,
                               const uint8_t context_hash[32], const Span& key_entry, bool nil_allowed,
                               const Elements& in, size_t* bad_message);

// NamedEntry is a distinct pair of suite and key entry that messages of a batch name.
struct NamedEntry {
  uint8_t suite;
  Span key_entry;
  uint32_t num_messages;
  uint8_t cache_id[32];  // SHA-256(suite ‖ key entry ‖ context hash)
};

// ScanMessages finds the entries that the messages name, and plans slices as PlanParts does. entry_of[i] is an index,
// kEntryMalformed, or kEntryUnknown for a detached message that points to none of `callers`: at most kEntriesMax, of at
// least 32 bytes each. kTooManyEntries where more than kEntriesMax are named.
[[nodiscard]] Status ScanMessages(NamedEntry entries[kEntriesMax], size_t* num_entries, uint16_t* entry_of,
                                  Part* parts, size_t* num_parts, size_t max_parts, const uint8_t context_hash[32],
                                  const Span* callers, size_t num_callers, const Elements& in, size_t* bad_message);

// OpenBatch opens every element with the key of its entry; keys[i] == 0 means that there is none. A message that has
// no key or does not open becomes nil; failures[i] says which did not open. `out` must have room for all that may open.
[[nodiscard]] Status OpenBatch(uint8_t* out, size_t out_len, size_t* written, uint8_t* failures, const AesGcm& gcm,
                               const Handle* keys, size_t num_keys, const uint16_t* entry_of,
                               const uint8_t context_hash[32], const Elements& in, size_t* bad_message);

// ReplaceKeyEntries copies inline messages with other key entries. An empty entry makes its messages nil.
[[nodiscard]] Status ReplaceKeyEntries(uint8_t* out, size_t out_len, size_t* written, const Span* key_entries,
                                       size_t num_entries, const uint16_t* entry_of, const Elements& in,
                                       size_t* bad_message);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_MESSAGE_BATCH_H_
