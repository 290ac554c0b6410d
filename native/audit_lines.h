// Lines of the audit log for a group of events: src/audit/record.ts says what a line is, and has the same in TypeScript
// for where there is no addon. Joining and hashing them there takes longer than everything else that is done for a record.

#ifndef KEYFOLD_NATIVE_AUDIT_LINES_H_
#define KEYFOLD_NATIVE_AUDIT_LINES_H_

#include <cstddef>
#include <cstdint>

#include "bytes.h"
#include "key_table.h"

namespace keyfold {

// Between the pieces of a head stand the time, the request id, and the numbers of messages, bytes and failures.
constexpr size_t kHeadPieces = 6;
// Of one event: its head, its time in milliseconds since 1970, the length of its request id, and the three numbers.
constexpr size_t kEventColumns = 6;
constexpr size_t kHexHashBytes = 64;

struct AuditEvents {
  const double* numbers;  // kEventColumns of each event.
  size_t num_events;
  Span request_ids;     // One behind the other. Printable ASCII that JSON does not escape.
  Span pieces;          // kHeadPieces of each head, one behind the other.
  const double* ends;   // Where each piece ends.
  size_t num_heads;
};

// The chain as far as it has come.
struct AuditChain {
  double group;
  double sequence;
  uint8_t hash[kHexHashBytes];
};

struct AuditLines {
  size_t num_events;
  size_t len;
};

// EncodeAuditLines writes the lines of the events from `first` on, as many as fit in `out`, and moves `chain` on.
// Returns kMisuse, with `chain` as it was and nothing written, where an event is not what is said above.
[[nodiscard]] Status EncodeAuditLines(uint8_t* out, size_t out_len, const AuditEvents& events, size_t first,
                                      AuditChain* chain, AuditLines* lines);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_AUDIT_LINES_H_
