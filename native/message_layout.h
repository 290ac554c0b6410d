// An inline or detached message, taken apart where it lies (src/format/message.ts has the picture).

#ifndef KEYFOLD_NATIVE_MESSAGE_LAYOUT_H_
#define KEYFOLD_NATIVE_MESSAGE_LAYOUT_H_

#include "bytes.h"
#include "keys.h"

namespace keyfold {

inline constexpr uint8_t kInlineVersion = 0xe1;
inline constexpr uint8_t kDetachedVersion = 0xe2;
inline constexpr size_t kCommitmentBytes = 32;
inline constexpr size_t kDataKeyIdBytes = 16;

// Layout says where the parts of a message begin.
struct Layout {
  uint8_t suite;
  bool is_inline;
  Span reference;  // key entry, or data key id
  const uint8_t* nonce;
  Span sealed;

  size_t PlaintextBytes() const { return sealed.len - SealedOverhead(suite); }
};

// ParseMessage reads a message of either form; false where it is none.
[[nodiscard]] inline bool ParseMessage(const Span& message, Layout* layout) {
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
    layout->is_inline = true;
  } else if (message.data[0] == kDetachedVersion) {
    reference_len = kDataKeyIdBytes;
    layout->is_inline = false;
  } else {
    return false;
  }
  const size_t sealed_at = 2 + reference_len + kXaesNonceBytes;
  if (message.len < sealed_at + SealedOverhead(layout->suite)) return false;
  layout->reference = {message.data + 2, reference_len};
  layout->nonce = message.data + 2 + reference_len;
  layout->sealed = {message.data + sealed_at, message.len - sealed_at};
  return ReadU32(layout->nonce + kBatchNonceBytes) < kBatchMessagesMax;
}

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_MESSAGE_LAYOUT_H_
