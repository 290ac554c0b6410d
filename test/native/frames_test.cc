// Frames of the AWS Encryption SDK's message format: every implementation against a reference that knows the format
// from its specification, in memory of exactly the right length, and what is refused.

#include "../../native/frames.h"

#include <algorithm>

#include "../../native/keys.h"
#include "check.h"
#include "reference_gcm.h"

namespace keyfold {
namespace {

Handle Import(const AesGcm& gcm, const Bytes& key) {
  Bytes source = key;
  Handle handle = 0;
  CHECK(ImportKey(gcm, source.data(), &handle) == Status::kOk);
  return handle;
}

void Append(Bytes* out, const Bytes& bytes) { out->insert(out->end(), bytes.begin(), bytes.end()); }

Bytes BigEndian(uint64_t value, size_t len) {
  Bytes bytes(len);
  for (size_t i = 0; i < len; ++i, value >>= 8) bytes[len - 1 - i] = static_cast<uint8_t>(value);
  return bytes;
}

// What the specification says a run is, one frame after the other.
Bytes Expected(const Bytes& key, const FrameRun& run, const Bytes& plaintext) {
  const ReferenceGcm reference(key.data());
  Bytes wire;
  size_t at = 0;
  for (size_t i = 0; i < run.num_frames; ++i) {
    const bool final = run.final && i == run.num_frames - 1;
    const size_t len = std::min(run.frame_len, plaintext.size() - at);
    const Bytes sequence = BigEndian(run.first_sequence + i, 4);
    const Bytes nonce = BigEndian(run.first_sequence + i, 12);
    Bytes aad(run.message_id.data, run.message_id.data + run.message_id.len);
    const std::string kind = final ? "AWSKMSEncryptionClient Final Frame" : "AWSKMSEncryptionClient Frame";
    Append(&aad, Bytes(kind.begin(), kind.end()));
    Append(&aad, sequence);
    Append(&aad, BigEndian(len, 8));
    if (final) Append(&wire, Bytes(4, 0xff));
    Append(&wire, sequence);
    Append(&wire, nonce);
    if (final) Append(&wire, BigEndian(len, 4));
    Append(&wire, reference.Seal(nonce, aad, Bytes(plaintext.begin() + at, plaintext.begin() + at + len)));
    at += len;
  }
  return wire;
}

void TestRuns(const AesGcm& gcm) {
  Noise noise(11);
  const Bytes key = noise.Take(32);
  const Handle handle = Import(gcm, key);
  for (size_t round = 0; round < 60; ++round) {
    const Bytes id = noise.Take(round % 2 == 0 ? 32 : 16);
    const size_t frame_len = 1 + noise.Below(round % 5 == 0 ? 3000 : 200);
    const size_t frames = 1 + noise.Below(5);
    const bool final = round % 3 != 0;
    const uint32_t first = round % 4 == 0 ? 0xffffffff - static_cast<uint32_t>(frames) + 1
                                          : 1 + static_cast<uint32_t>(noise.Below(1u << 31));
    const FrameRun run = {{id.data(), id.size()}, frame_len, first, frames, final};
    // From nothing to a whole frame in the final one.
    const size_t last = final ? noise.Below(frame_len + 1) : frame_len;
    const Bytes plaintext = noise.Take((frames - 1) * frame_len + last);
    const Bytes expected = Expected(key, run, plaintext);
    Bytes wire(plaintext.size() + FrameOverhead(run));
    CHECK(SealFrames(wire.data(), wire.size(), gcm, handle, run, {plaintext.data(), plaintext.size()}) == Status::kOk);
    CHECK_CASE(wire == expected, "round %zu, %zu frames of %zu", round, frames, frame_len);
    Bytes opened(plaintext.size());
    size_t bad = 0;
    CHECK(OpenFrames(opened.data(), opened.size(), gcm, handle, run, {wire.data(), wire.size()}, &bad) == Status::kOk);
    CHECK(opened == plaintext);

    const size_t damaged = noise.Below(frames);
    const size_t frame_end = damaged == frames - 1 ? wire.size() : (damaged + 1) * (frame_len + 32);
    wire[frame_end - 1 - noise.Below(16)] ^= 1;
    CHECK(OpenFrames(opened.data(), opened.size(), gcm, handle, run, {wire.data(), wire.size()}, &bad) ==
          Status::kDecryptFailed);
    CHECK(bad == damaged);
    CHECK(opened == Bytes(plaintext.size()));
  }
  CHECK(ReleaseSlot(handle) == Status::kOk);
}

void TestRefusals(const AesGcm& gcm) {
  Noise noise(12);
  const Handle handle = Import(gcm, noise.Take(32));
  const Bytes id = noise.Take(33);
  const Bytes plaintext = noise.Take(200);
  Bytes wire(1000, 0xaa);
  const FrameRun good = {{id.data(), 32}, 50, 1, 2, false};
  const auto seal = [&](const FrameRun& run, size_t len, size_t out_len) {
    return SealFrames(wire.data(), out_len, gcm, handle, run, {plaintext.data(), len});
  };
  const auto open = [&](const FrameRun& run, size_t len, size_t in_len) {
    Bytes out(len);
    size_t bad = 0;
    return OpenFrames(out.data(), len, gcm, handle, run, {wire.data(), in_len}, &bad);
  };
  const auto refused = [&](const FrameRun& run, size_t len) {
    CHECK(seal(run, len, len + FrameOverhead(run)) == Status::kMisuse);
    CHECK(open(run, len, len + FrameOverhead(run)) == Status::kMisuse);
    CHECK(wire == Bytes(1000, 0xaa));
  };
  FrameRun run = good;
  refused(run, 99);
  refused(run, 101);
  run.final = true;
  refused(run, 49);
  refused(run, 101);
  run = good;
  run.first_sequence = 0;
  refused(run, 100);
  run.first_sequence = 0xffffffff;
  refused(run, 100);
  run = good;
  run.num_frames = 0;
  refused(run, 0);
  run.num_frames = ~static_cast<size_t>(0);
  refused(run, 100);
  // A product that would be 100 if it overflowed.
  run.num_frames = (static_cast<size_t>(1) << 63) + 2;
  refused(run, 100);
  run = good;
  run.frame_len = 0;
  refused(run, 0);
  run.frame_len = kFrameBytesMax + 1;
  refused(run, 100);
  run = good;
  run.message_id.len = 33;
  refused(run, 100);
  run.message_id.len = 0;
  refused(run, 100);
  CHECK(seal(good, 100, 163) == Status::kMisuse);
  CHECK(seal(good, 100, 165) == Status::kMisuse);
  CHECK(open(good, 100, 163) == Status::kMisuse);
  CHECK(open(good, 100, 165) == Status::kMisuse);
  CHECK(wire == Bytes(1000, 0xaa));

  CHECK(ReleaseSlot(handle) == Status::kOk);
  CHECK(seal(good, 100, 164) == Status::kStale);
  CHECK(open(good, 100, 164) == Status::kStale);
}

}  // namespace
}  // namespace keyfold

int main() {
  using namespace keyfold;
  if (BestImplementation() == Implementation::kNone) {
    std::puts("this processor has no kernel: not tested");
    return 0;
  }
  CHECK(OpenKeyTable());
  for (const Implementation implementation : {Implementation::kAesni, Implementation::kVaes}) {
    const AesGcm* gcm = GetAesGcm(implementation);
    if (gcm == nullptr || !Supports(implementation)) continue;
    TestRuns(*gcm);
    TestRefusals(*gcm);
  }
  return 0;
}
