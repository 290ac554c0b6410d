// Packed batches (src/format/packed-batch.ts): sealed in parts claimed from a ticket, so that every index and the
// batch tag are sealed at most once, whatever threads do.

#ifndef KEYFOLD_NATIVE_PACKED_BATCH_H_
#define KEYFOLD_NATIVE_PACKED_BATCH_H_

#include "bytes.h"
#include "key_table.h"

namespace keyfold {

// BeginPacked draws R and derives the batch's key into a ticket. first_messages[0] is 0 and the list ascends. The
// message key has to be there until the last part is sealed.
[[nodiscard]] Status BeginPacked(const AesGcm& gcm, Handle key, const uint8_t context_hash[32], size_t num_messages,
                                 const uint32_t* first_messages, size_t num_parts, Handle* ticket);

// SealPackedPart claims one part and seals its elements: lengths go to `lengths` (that of the whole batch), sealed
// messages to `sealed`. kMisuse where the part was claimed before. A part that failed stays claimed.
[[nodiscard]] Status SealPackedPart(uint8_t* lengths, size_t lengths_len, uint8_t* sealed, size_t sealed_len,
                                    const AesGcm& gcm, Handle ticket, size_t part, const Span& in,
                                    size_t* bad_message);

// FinishPacked writes the header in front of the parts and the batch tag behind them, and ends the ticket either way.
// kMisuse unless every part was sealed.
[[nodiscard]] Status FinishPacked(uint8_t* packed, size_t packed_len, const AesGcm& gcm, Handle ticket,
                                  const Span& key_entry);

// VerifyPacked checks form (kNotAMessage) and batch tag (kDecryptFailed) of a whole value.
[[nodiscard]] Status VerifyPacked(const AesGcm& gcm, Handle key, const uint8_t context_hash[32], const Span& packed);

// OpenPackedPart opens num_messages messages from first_message on, whose sealed bytes begin at sealed_offset, into
// elements: nil where one does not open, failures[i] says which. `out` must have room for all that may open.
[[nodiscard]] Status OpenPackedPart(uint8_t* out, size_t out_len, size_t* written, uint8_t* failures,
                                    const AesGcm& gcm, Handle key, const uint8_t context_hash[32],
                                    const Span& packed, size_t first_message, size_t num_messages,
                                    size_t sealed_offset);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_PACKED_BATCH_H_
