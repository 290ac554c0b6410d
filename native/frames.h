// Frames of the AWS Encryption SDK's message format (src/format/encryption-sdk-frames.ts has the picture), a run of
// them a call: one key schedule and one table of H for all of it.

#ifndef KEYFOLD_NATIVE_FRAMES_H_
#define KEYFOLD_NATIVE_FRAMES_H_

#include "bytes.h"
#include "key_table.h"

namespace keyfold {

// The same number stands in src/limits.ts (FRAME_BYTES_READ_MAX); a test compares them.
inline constexpr size_t kFrameBytesMax = 16u << 20;
// Version 2 of the format; version 1 has 16.
inline constexpr size_t kMessageIdBytesMax = 32;

struct FrameRun {
  Span message_id;
  // Plaintext bytes of every frame but the final one.
  size_t frame_len;
  // Never 0: that is the nonce of the header's tag.
  uint32_t first_sequence;
  size_t num_frames;
  // Whether the last of them is the message's final one.
  bool final;
};

// FrameOverhead is what a run has besides its plaintext.
inline size_t FrameOverhead(const FrameRun& run) { return 32 * run.num_frames + (run.final ? 8 : 0); }

// SealFrames writes in.len + FrameOverhead bytes. kMisuse, with nothing written, where `in` is not the plaintext of
// such a run, or `out_len` not exactly its wire bytes. `in` and `out` must not overlap.
//
// A sequence number is a nonce and must never repeat under one key. SealFrames cannot check this; the caller must.
[[nodiscard]] Status SealFrames(uint8_t* out, size_t out_len, const AesGcm& gcm, Handle key, const FrameRun& run,
                                const Span& in);

// OpenFrames writes in.len - FrameOverhead bytes. kDecryptFailed where a tag does not verify: then `bad_frame` is the
// first such frame, counted from 0, and `out` is zeros. Sequence numbers and lengths in the heads are not looked at:
// the AAD has them as the run says. The nonce is the one that stands in the frame.
[[nodiscard]] Status OpenFrames(uint8_t* out, size_t out_len, const AesGcm& gcm, Handle key, const FrameRun& run,
                                const Span& in, size_t* bad_frame);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_FRAMES_H_
