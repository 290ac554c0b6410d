// What the tests of batches and the fuzzer share: output that notices a byte too many, and readers of the formats that
// know nothing of native/ but the single-message cipher, to compare with.

#ifndef KEYFOLD_TEST_NATIVE_BATCHES_H_
#define KEYFOLD_TEST_NATIVE_BATCHES_H_

#include <cstring>
#include <optional>
#include <vector>

#include "../../native/keys.h"
#include "../../native/message_batch.h"
#include "../../native/packed_batch.h"
#include "check.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KEYFOLD_TEST_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define KEYFOLD_TEST_ASAN
#endif
#if defined(KEYFOLD_TEST_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace keyfold {

inline const AesGcm& Gcm() {
  const AesGcm* gcm = GetAesGcm(BestImplementation());
  CHECK(gcm != nullptr);
  return *gcm;
}

// Guarded is `len` bytes of output. What lies around them is poisoned under AddressSanitizer, and checked without it.
class Guarded {
 public:
  static constexpr uint8_t kFill = 0xa5;

  explicit Guarded(size_t len) : len_(len), bytes_(len + 2 * kMarginBytes, kFill) { Poison(); }
  ~Guarded() {
    Unpoison();
    for (size_t i = 0; i < kMarginBytes; ++i) {
      CHECK(bytes_[i] == kFill);
      CHECK(bytes_[kMarginBytes + len_ + i] == kFill);
    }
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  uint8_t* data() { return bytes_.data() + kMarginBytes; }
  size_t len() const { return len_; }

  bool IsUntouched() {
    for (size_t i = 0; i < len_; ++i) {
      if (data()[i] != kFill) return false;
    }
    return true;
  }

  // Behind what was written there may be zeros, never plaintext that has moved up.
  bool HoldsNothingFrom(size_t offset) {
    for (size_t i = offset; i < len_; ++i) {
      if (data()[i] != kFill && data()[i] != 0) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kMarginBytes = 128;

#if defined(KEYFOLD_TEST_ASAN)
  void Poison() {
    ASAN_POISON_MEMORY_REGION(bytes_.data(), kMarginBytes);
    ASAN_POISON_MEMORY_REGION(data() + len_, kMarginBytes);
  }
  void Unpoison() { ASAN_UNPOISON_MEMORY_REGION(bytes_.data(), bytes_.size()); }
#else
  void Poison() {}
  void Unpoison() {}
#endif

  size_t len_;
  Bytes bytes_;
};

// Elements of MessagePack. nullopt is nil.
using Element = std::optional<Bytes>;

inline void Append(Bytes* to, const Bytes& bytes) { to->insert(to->end(), bytes.begin(), bytes.end()); }

inline void AppendU32(Bytes* to, size_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) to->push_back(static_cast<uint8_t>(value >> shift));
}

// AppendElement writes one with a head of 2, 3 or 5 bytes; 0 takes the smallest.
inline void AppendElement(Bytes* to, const Element& element, size_t head_bytes = 0) {
  if (!element.has_value()) {
    to->push_back(0xc0);
    return;
  }
  const size_t len = element->size();
  const size_t least = len <= 0xff ? 2 : len <= 0xffff ? 3 : 5;
  switch (head_bytes < least ? least : head_bytes) {
    case 2:
      Append(to, {0xc4, static_cast<uint8_t>(len)});
      break;
    case 3:
      Append(to, {0xc5, static_cast<uint8_t>(len >> 8), static_cast<uint8_t>(len)});
      break;
    default:
      to->push_back(0xc6);
      AppendU32(to, len);
  }
  Append(to, *element);
}

inline Bytes EncodeElements(const std::vector<Element>& elements) {
  Bytes bytes;
  for (const Element& element : elements) AppendElement(&bytes, element);
  return bytes;
}

// DecodeElements reads `count` elements that fill `in`. nullopt where they do not; `bad` says which is to blame.
inline std::optional<std::vector<Element>> DecodeElements(const uint8_t* in, size_t len, size_t count,
                                                          bool nil_allowed, size_t* bad) {
  std::vector<Element> elements;
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    *bad = i;
    if (at == len) return std::nullopt;
    const uint8_t type = in[at++];
    if (type == 0xc0 && nil_allowed) {
      elements.emplace_back();
      continue;
    }
    if (type < 0xc4 || type > 0xc6) return std::nullopt;
    uint64_t element_len = 0;
    for (int width = 1 << (type - 0xc4); width > 0; --width) {
      if (at == len) return std::nullopt;
      element_len = element_len << 8 | in[at++];
    }
    if (element_len > len - at) return std::nullopt;
    elements.emplace_back(Bytes(in + at, in + at + element_len));
    at += element_len;
  }
  *bad = count;
  if (at != len) return std::nullopt;
  return elements;
}

// A message key of the table with what a test knows of it.
struct TestKey {
  Handle handle;
  uint8_t suite;
  Bytes commitment;
  Bytes key_entry;

  size_t overhead() const { return suite == 2 ? 48 : 16; }
};

inline TestKey MakeTestKey(uint8_t suite, uint8_t filling) {
  Bytes material(32, filling);
  Handle raw = 0;
  CHECK(ImportKey(Gcm(), material.data(), &raw) == Status::kOk);
  TestKey key{0, suite, Bytes(32), {}};
  CHECK(CreateMessageKey(Gcm(), raw, suite, &key.handle) == Status::kOk);
  CHECK(ReleaseSlot(raw) == Status::kOk);
  CHECK(GetCommitment(key.handle, key.commitment.data()) == Status::kOk);
  key.key_entry = key.commitment;
  Append(&key.key_entry, {0, 5, 'e', 'n', 't', 'r', filling});
  return key;
}

// OpenAlone opens one sealed message as the format says, by itself. nullopt where it does not open.
inline Element OpenAlone(const TestKey& key, const uint8_t context_hash[32], const Bytes& nonce, const Bytes& sealed) {
  if (sealed.size() < key.overhead()) return std::nullopt;
  Pin pin(key.handle, Kind::kMessageKey);
  CHECK(pin.slot() != nullptr);
  Bytes aad = {key.suite};
  aad.insert(aad.end(), key.commitment.begin(), key.commitment.begin() + 16);
  aad.insert(aad.end(), context_hash, context_hash + 32);
  Bytes out(sealed.size() - key.overhead());
  Scratch scratch;
  if (!OpenXaes(out.data(), scratch.area(), Gcm(), key.suite, pin.key()->xaes, nonce.data(), aad.data(), aad.size(),
                sealed.data(), sealed.size())) {
    return std::nullopt;
  }
  return out;
}

// An inline or detached message in pieces.
struct ParsedMessage {
  uint8_t version;
  uint8_t suite;
  Bytes reference;
  Bytes nonce;
  Bytes sealed;
};

inline std::optional<ParsedMessage> ParseAlone(const Bytes& message) {
  size_t at = 0;
  bool enough = true;
  const auto take = [&](size_t len) {
    if (len > message.size() - at) enough = false;
    const size_t end = enough ? at + len : at;
    Bytes taken(message.begin() + static_cast<ptrdiff_t>(at), message.begin() + static_cast<ptrdiff_t>(end));
    at = end;
    return taken;
  };
  const Bytes head = take(2);
  if (!enough || head[1] < 1 || head[1] > 2) return std::nullopt;
  ParsedMessage parsed{head[0], head[1], {}, {}, {}};
  if (parsed.version == 0xe1) {
    parsed.reference = take(34);
    if (!enough) return std::nullopt;
    const size_t wrapped_len = static_cast<size_t>(parsed.reference[32] << 8 | parsed.reference[33]);
    if (wrapped_len == 0) return std::nullopt;
    Append(&parsed.reference, take(wrapped_len));
  } else if (parsed.version == 0xe2) {
    parsed.reference = take(16);
  } else {
    return std::nullopt;
  }
  parsed.nonce = take(24);
  if (!enough || parsed.nonce[20] != 0 || parsed.nonce[21] != 0) return std::nullopt;
  parsed.sealed = take(message.size() - at);
  if (parsed.sealed.size() < (parsed.suite == 2 ? 48u : 16u)) return std::nullopt;
  return parsed;
}

// A packed batch in pieces.
struct ParsedPacked {
  uint8_t suite;
  Bytes key_entry;
  Bytes r;
  std::vector<Bytes> sealed;
  std::vector<size_t> sealed_offsets;
  Bytes lengths;
  Bytes tag;
};

inline std::optional<ParsedPacked> ParsePackedAlone(const Bytes& packed) {
  size_t at = 0;
  bool enough = true;
  const auto take = [&](uint64_t len) {
    if (len > packed.size() - at) enough = false;
    const size_t end = enough ? at + static_cast<size_t>(len) : at;
    Bytes taken(packed.begin() + static_cast<ptrdiff_t>(at), packed.begin() + static_cast<ptrdiff_t>(end));
    at = end;
    return taken;
  };
  const Bytes head = take(2);
  if (!enough || head[0] != 0xe3 || head[1] < 1 || head[1] > 2) return std::nullopt;
  ParsedPacked parsed{head[1], take(34), {}, {}, {}, {}, {}};
  if (!enough) return std::nullopt;
  const size_t wrapped_len = static_cast<size_t>(parsed.key_entry[32] << 8 | parsed.key_entry[33]);
  if (wrapped_len == 0) return std::nullopt;
  Append(&parsed.key_entry, take(wrapped_len));
  parsed.r = take(20);
  const Bytes count_bytes = take(4);
  if (!enough) return std::nullopt;
  const uint64_t count = ReadU32(count_bytes.data());
  if (count == 0 || count > 65536) return std::nullopt;
  parsed.lengths = take(4 * count);
  if (!enough) return std::nullopt;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t len = ReadU32(parsed.lengths.data() + 4 * i);
    if (len > (16u << 20)) return std::nullopt;
    parsed.sealed_offsets.push_back(at);
    parsed.sealed.push_back(take(len + (parsed.suite == 2 ? 48 : 16)));
    if (!enough) return std::nullopt;
  }
  parsed.tag = take(16);
  if (!enough || at != packed.size()) return std::nullopt;
  return parsed;
}

inline Bytes NonceOf(const Bytes& r, size_t index) {
  Bytes nonce = r;
  AppendU32(&nonce, index);
  return nonce;
}

// The batch tag as the format defines it, computed by itself.
inline Bytes BatchTagAlone(const TestKey& key, const uint8_t context_hash[32], const ParsedPacked& parsed) {
  Pin pin(key.handle, Kind::kMessageKey);
  CHECK(pin.slot() != nullptr);
  const char label[] = "keyfold/packed/v1";
  Bytes aad(label, label + 17);
  aad.push_back(key.suite);
  aad.insert(aad.end(), key.commitment.begin(), key.commitment.begin() + 16);
  aad.insert(aad.end(), context_hash, context_hash + 32);
  AppendU32(&aad, parsed.sealed.size());
  Append(&aad, parsed.lengths);
  for (const Bytes& sealed : parsed.sealed) {
    aad.insert(aad.end(), sealed.end() - static_cast<ptrdiff_t>(key.overhead()), sealed.end());
  }
  const Bytes nonce = NonceOf(parsed.r, 0xffffffff);
  Bytes tag(16);
  const uint8_t nothing = 0;
  Scratch scratch;
  SealXaes(tag.data(), scratch.area(), Gcm(), 1, pin.key()->xaes, nonce.data(), aad.data(), aad.size(), &nothing, 0);
  return tag;
}

}  // namespace keyfold

#endif  // KEYFOLD_TEST_NATIVE_BATCHES_H_
