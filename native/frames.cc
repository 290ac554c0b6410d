// The AAD of a frame is message id ‖ kind of content ‖ u32 sequence number ‖ u64 plaintext bytes.

#include "frames.h"

#include <cstring>

#include "wipe.h"

namespace keyfold {
namespace {

constexpr char kRegular[] = "AWSKMSEncryptionClient Frame";
constexpr char kFinal[] = "AWSKMSEncryptionClient Final Frame";
constexpr size_t kNumbersBytes = 4 + 8;
constexpr size_t kAadBytesMax = kMessageIdBytesMax + sizeof(kFinal) - 1 + kNumbersBytes;
constexpr uint32_t kFinalMarker = 0xffffffff;

// Whether a run can have so many bytes of plaintext.
bool IsRun(const FrameRun& run, size_t plaintext_len) {
  if (run.message_id.len == 0 || run.message_id.len > kMessageIdBytesMax) return false;
  if (run.frame_len == 0 || run.frame_len > kFrameBytesMax) return false;
  if (run.num_frames == 0 || run.first_sequence == 0) return false;
  if (run.num_frames - 1 > 0xffffffff - static_cast<size_t>(run.first_sequence)) return false;
  // Below 2^32 frames of at most 2^24 bytes: no product overflows.
  const size_t most = run.num_frames * run.frame_len;
  return run.final ? plaintext_len <= most && plaintext_len >= most - run.frame_len : plaintext_len == most;
}

// One frame after the other, with its AAD.
class Frames {
 public:
  Frames(const FrameRun& run, size_t plaintext_len) : run_(run), left_(plaintext_len) {}

  // Where the next frame has its parts, from its own beginning.
  struct Place {
    uint32_t sequence;
    bool final;
    size_t len;
    size_t iv_at;
    size_t ciphertext_at;
    size_t wire_len;
  };

  Place Next() {
    Place place;
    place.sequence = run_.first_sequence + static_cast<uint32_t>(index_);
    place.final = run_.final && index_ == run_.num_frames - 1;
    place.len = left_ < run_.frame_len ? left_ : run_.frame_len;
    place.iv_at = place.final ? 8 : 4;
    place.ciphertext_at = place.iv_at + kGcmNonceBytes + (place.final ? 4 : 0);
    place.wire_len = place.ciphertext_at + place.len + kGcmTagBytes;
    left_ -= place.len;
    index_++;
    return place;
  }

  void HashAad(GcmAad* hashed, const AesGcm& gcm, GcmKey* key, const Place& place) const {
    const char* kind = place.final ? kFinal : kRegular;
    const size_t kind_len = (place.final ? sizeof(kFinal) : sizeof(kRegular)) - 1;
    uint8_t aad[kAadBytesMax];
    std::memcpy(aad, run_.message_id.data, run_.message_id.len);
    uint8_t* at = aad + run_.message_id.len;
    std::memcpy(at, kind, kind_len);
    at += kind_len;
    WriteU32(at, place.sequence);
    WriteU32(at + 4, 0);
    WriteU32(at + 8, static_cast<uint32_t>(place.len));
    gcm.hash_aad(hashed, key, aad, static_cast<size_t>(at + kNumbersBytes - aad));
  }

 private:
  const FrameRun& run_;
  size_t left_;
  size_t index_ = 0;
};

}  // namespace

Status SealFrames(uint8_t* out, size_t out_len, const AesGcm& gcm, Handle key, const FrameRun& run, const Span& in) {
  if (!IsRun(run, in.len) || out_len != in.len + FrameOverhead(run)) return Status::kMisuse;
  Pin pin(key, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  Scratch scratch;
  gcm.init(&scratch->gcm, pin.key()->key, run.frame_len);
  Frames frames(run, in.len);
  const uint8_t* plaintext = in.data;
  for (size_t i = 0; i < run.num_frames; i++) {
    const Frames::Place place = frames.Next();
    if (place.final) {
      WriteU32(out, kFinalMarker);
      WriteU32(out + place.ciphertext_at - 4, static_cast<uint32_t>(place.len));
    }
    uint8_t* iv = out + place.iv_at;
    WriteU32(iv - 4, place.sequence);
    std::memset(iv, 0, 8);
    WriteU32(iv + 8, place.sequence);
    GcmAad hashed;
    frames.HashAad(&hashed, gcm, &scratch->gcm, place);
    GcmMessage message{plaintext, out + place.ciphertext_at, place.len, place.sequence, false};
    // The first eight bytes of the nonce; not read from `out`, which others may write to.
    constexpr uint8_t kPrefix[8] = {};
    gcm.seal_many(&scratch->gcm, hashed, kPrefix, &message, 1);
    plaintext += place.len;
    out += place.wire_len;
  }
  return Status::kOk;
}

Status OpenFrames(uint8_t* out, size_t out_len, const AesGcm& gcm, Handle key, const FrameRun& run, const Span& in,
                  size_t* bad_frame) {
  if (!IsRun(run, out_len) || in.len != out_len + FrameOverhead(run)) return Status::kMisuse;
  Pin pin(key, Kind::kRaw);
  if (pin.slot() == nullptr) return Status::kStale;
  Scratch scratch;
  gcm.init(&scratch->gcm, pin.key()->key, run.frame_len);
  Frames frames(run, out_len);
  const uint8_t* wire = in.data;
  uint8_t* plaintext = out;
  for (size_t i = 0; i < run.num_frames; i++) {
    const Frames::Place place = frames.Next();
    const uint8_t* iv = wire + place.iv_at;
    GcmAad hashed;
    frames.HashAad(&hashed, gcm, &scratch->gcm, place);
    GcmMessage message{wire + place.ciphertext_at, plaintext, place.len, ReadU32(iv + 8), false};
    gcm.open_many(&scratch->gcm, hashed, iv, &message, 1);
    if (!message.ok) {
      Wipe(out, out_len);
      *bad_frame = i;
      return Status::kDecryptFailed;
    }
    plaintext += place.len;
    wire += place.wire_len;
  }
  return Status::kOk;
}

}  // namespace keyfold
