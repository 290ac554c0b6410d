// Fuzzes what takes bytes from strangers: elements, messages and packed batches, planned, sealed, scanned, opened,
// moved to other key entries and verified under real keys. Every answer is compared with that of the plain readers in
// batches.h: which status, which message is to blame, which messages open and to what, and that a failure leaves the
// output alone.
//
//     1  operation
//     1  options (kSuite2 …)
//     2  count of messages, big-endian
//     4  numbers, whose meaning is the operation's
//     …  elements or a packed batch
//
// fuzz_message_batch --write-seeds DIRECTORY writes valid inputs, sealed under the keys of the fuzzer.

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>

#include "batches.h"

namespace keyfold {
namespace {

constexpr uint8_t kOperations = 6;
constexpr uint8_t kSuite2 = 1;
constexpr uint8_t kDetached = 2;
constexpr uint8_t kNilAllowed = 4;
constexpr uint8_t kOtherContext = 8;
constexpr uint8_t kOutputShort = 16;
constexpr uint8_t kOutputTiny = 32;
constexpr uint8_t kHostileEntries = 64;
constexpr uint8_t kHostileOffset = 128;

constexpr uint8_t kPlan = 0;
constexpr uint8_t kSeal = 1;
constexpr uint8_t kOpen = 2;
constexpr uint8_t kReplace = 3;
constexpr uint8_t kOpenPacked = 4;
constexpr uint8_t kSealPacked = 5;

constexpr size_t kHeadBytes = 8;

const uint8_t kContextHashes[2][32] = {{1, 2, 3}, {9}};

struct Keys {
  // Of suites 1 and 2.
  std::vector<TestKey> keys;
  Handle stale;
};

const Keys& GetKeys() {
  static const Keys keys = [] {
    Keys made{{MakeTestKey(1, 0x11), MakeTestKey(2, 0x22)}, 0};
    made.stale = MakeTestKey(1, 0x33).handle;
    CHECK(ReleaseSlot(made.stale) == Status::kOk);
    return made;
  }();
  return keys;
}

struct Input {
  uint8_t operation;
  uint8_t options;
  size_t count;
  uint8_t numbers[4];
  // On the heap and exactly as long as it is, so that a byte read too many is found.
  Bytes bytes;

  bool Has(uint8_t option) const { return (options & option) != 0; }
  const TestKey& key() const { return GetKeys().keys[Has(kSuite2) ? 1 : 0]; }
  const uint8_t* context_hash() const { return kContextHashes[Has(kOtherContext) ? 1 : 0]; }
  Elements elements() const { return {bytes.data(), bytes.size(), count}; }

  // How much output to offer where `needed` would do.
  size_t OutputBytes(size_t needed) const {
    if (Has(kOutputTiny)) return std::min<size_t>(needed, numbers[0]);
    if (Has(kOutputShort)) return needed == 0 ? 0 : needed - 1;
    return needed + (numbers[0] & 3);
  }
};

size_t ElementLen(const Element& element) {
  Bytes encoded;
  AppendElement(&encoded, element);
  return encoded.size();
}

void FuzzPlan(const Input& input) {
  const size_t overhead = input.numbers[0];
  const size_t max_parts = input.numbers[1];
  size_t expected_bad = 0;
  const auto expected = DecodeElements(input.bytes.data(), input.bytes.size(), input.count, input.Has(kNilAllowed),
                                       &expected_bad);
  const std::unique_ptr<Part[]> parts(new Part[kPartsMax]);
  size_t num_parts = 0;
  size_t bad = 0;
  const Status status =
      PlanParts(parts.get(), &num_parts, max_parts, input.elements(), overhead, input.Has(kNilAllowed), &bad);
  CHECK(status == (expected.has_value() ? Status::kOk : Status::kMalformed));
  CHECK(bad == expected_bad);
  if (!expected.has_value()) return;
  CHECK(num_parts >= 1 && num_parts <= kPartsMax && num_parts <= std::max<size_t>(max_parts, 1));
  size_t offset = 0;
  size_t message = 0;
  for (size_t i = 0; i < num_parts; ++i) {
    const Part& part = parts[i];
    CHECK(part.input_offset == offset && part.first_message == message);
    CHECK(part.num_messages > 0 || input.count == 0);
    size_t plaintext_bytes = 0;
    size_t output_bytes = 0;
    size_t unused = 0;
    // Each part is a batch by itself.
    const auto sliced = DecodeElements(input.bytes.data() + part.input_offset, part.input_end - part.input_offset,
                                       part.num_messages, input.Has(kNilAllowed), &unused);
    CHECK(sliced.has_value());
    for (const Element& element : *sliced) {
      plaintext_bytes += element.has_value() ? element->size() : 0;
      output_bytes += element.has_value() ? ElementLen(Bytes(element->size() + overhead)) : 1;
    }
    CHECK(part.plaintext_bytes == plaintext_bytes && part.output_bytes == output_bytes);
    offset = part.input_end;
    message += part.num_messages;
  }
  CHECK(offset == input.bytes.size() && message == input.count);
}

void FuzzSeal(const Input& input) {
  const TestKey& key = input.key();
  const bool detached = input.Has(kDetached);
  size_t expected_bad = 0;
  const auto plaintexts = DecodeElements(input.bytes.data(), input.bytes.size(), input.count,
                                         input.Has(kNilAllowed), &expected_bad);
  const size_t overhead = 2 + (detached ? 16 : key.key_entry.size()) + 24 + key.overhead();
  size_t needed = 0;
  if (plaintexts.has_value()) {
    for (const Element& element : *plaintexts) {
      needed += element.has_value() ? ElementLen(Bytes(element->size() + overhead)) : 1;
    }
  }
  Guarded out(input.OutputBytes(needed));
  const Span key_entry = detached ? Span{nullptr, 0} : Span{key.key_entry.data(), key.key_entry.size()};
  size_t written = 0;
  size_t bad = 0;
  const Status status = SealBatch(out.data(), out.len(), &written, Gcm(), key.handle, input.context_hash(), key_entry,
                                  input.Has(kNilAllowed), input.elements(), &bad);
  if (!plaintexts.has_value()) {
    CHECK(status == Status::kMalformed && bad == expected_bad && out.IsUntouched());
    return;
  }
  if (out.len() < needed) {
    CHECK(status == Status::kMisuse && out.IsUntouched());
    return;
  }
  CHECK(status == Status::kOk && written == needed);
  const auto sealed = DecodeElements(out.data(), written, input.count, true, &bad);
  CHECK(sealed.has_value());
  Bytes r;
  for (size_t i = 0; i < input.count; ++i) {
    const Element& plaintext = (*plaintexts)[i];
    CHECK((*sealed)[i].has_value() == plaintext.has_value());
    if (!plaintext.has_value()) continue;
    const auto message = ParseAlone(*(*sealed)[i]);
    CHECK(message.has_value() && message->suite == key.suite);
    CHECK(message->version == (detached ? 0xe2 : 0xe1));
    CHECK(message->reference == (detached ? Bytes(key.commitment.begin(), key.commitment.begin() + 16) : key.key_entry));
    // One R for all, and each its own index.
    if (r.empty()) r.assign(message->nonce.begin(), message->nonce.begin() + 20);
    CHECK(message->nonce == NonceOf(r, i));
    CHECK(OpenAlone(key, input.context_hash(), message->nonce, message->sealed) == plaintext);
  }
}

void FuzzOpen(const Input& input) {
  const auto& known = GetKeys().keys;
  size_t expected_bad = 0;
  const auto elements = DecodeElements(input.bytes.data(), input.bytes.size(), input.count, false, &expected_bad);
  const Span callers[] = {{known[0].key_entry.data(), known[0].key_entry.size()},
                          {known[1].key_entry.data(), known[1].key_entry.size()}};
  const std::unique_ptr<NamedEntry[]> entries(new NamedEntry[kEntriesMax]);
  const std::unique_ptr<uint16_t[]> entry_of(new uint16_t[input.count]);
  const std::unique_ptr<Part[]> parts(new Part[kPartsMax]);
  size_t num_entries = 0;
  size_t num_parts = 0;
  size_t bad = 0;
  const size_t num_callers = input.numbers[2] % 3;
  const Status scanned = ScanMessages(entries.get(), &num_entries, entry_of.get(), parts.get(), &num_parts,
                                      input.numbers[1], input.context_hash(), callers, num_callers, input.elements(),
                                      &bad);
  if (!elements.has_value()) {
    CHECK(scanned == Status::kTooManyEntries || (scanned == Status::kMalformed && bad == expected_bad));
  } else {
    CHECK(scanned == Status::kTooManyEntries || (scanned == Status::kOk && bad == input.count));
  }
  std::vector<Handle> keys;
  std::vector<const TestKey*> key_of_entry;
  if (scanned == Status::kOk) {
    CHECK(num_entries <= kEntriesMax && num_parts >= 1 && num_parts <= kPartsMax);
    for (size_t i = 0; i < input.count; ++i) {
      const auto message = ParseAlone(*(*elements)[i]);
      CHECK((entry_of[i] == kEntryMalformed) == !message.has_value());
      if (!message.has_value()) continue;
      if (entry_of[i] == kEntryUnknown) {
        CHECK(message->version == 0xe2);
        for (size_t c = 0; c < num_callers; ++c) CHECK(std::memcmp(callers[c].data, message->reference.data(), 16) != 0);
        continue;
      }
      CHECK(entry_of[i] < num_entries);
      const NamedEntry& entry = entries[entry_of[i]];
      const size_t compared = message->version == 0xe1 ? entry.key_entry.len : 16;
      CHECK(entry.suite == message->suite && message->reference.size() == compared);
      CHECK(std::memcmp(entry.key_entry.data, message->reference.data(), compared) == 0);
    }
    for (size_t e = 0; e < num_entries; ++e) {
      const Bytes named(entries[e].key_entry.data, entries[e].key_entry.data + entries[e].key_entry.len);
      const TestKey* found = nullptr;
      for (const TestKey& key : known) {
        if (key.key_entry == named && key.suite == entries[e].suite) found = &key;
      }
      key_of_entry.push_back(found);
    }
  }
  if (scanned != Status::kOk || input.Has(kHostileEntries)) {
    // Numbers that no scan gave: all of them have to be taken.
    key_of_entry = {&known[0], nullptr, &known[1]};
    for (size_t i = 0; i < input.count; ++i) {
      entry_of[i] = input.numbers[3] == 0xff ? static_cast<uint16_t>(0xfffd + i % 3)
                                             : static_cast<uint16_t>((i * input.numbers[3] + input.numbers[2]) % 5);
    }
  }
  for (const TestKey* key : key_of_entry) keys.push_back(key == nullptr ? 0 : key->handle);
  const bool stale = input.numbers[3] == 0xfe && !keys.empty();
  if (stale) keys.back() = GetKeys().stale;

  size_t needed = 0;
  std::vector<Element> expected;
  std::vector<uint8_t> failed;
  if (elements.has_value()) {
    for (size_t i = 0; i < input.count; ++i) {
      const TestKey* key = entry_of[i] < key_of_entry.size() ? key_of_entry[entry_of[i]] : nullptr;
      const auto message = ParseAlone(*(*elements)[i]);
      expected.emplace_back();
      failed.push_back(key != nullptr);
      if (key == nullptr || !message.has_value() || message->suite != key->suite) {
        needed += 1;
        continue;
      }
      needed += ElementLen(Bytes(message->sealed.size() - key->overhead()));
      expected.back() = OpenAlone(*key, input.context_hash(), message->nonce, message->sealed);
      failed.back() = !expected.back().has_value();
    }
  }
  Guarded out(input.OutputBytes(needed));
  Guarded failures(input.count);
  size_t written = 0;
  const Status status = OpenBatch(out.data(), out.len(), &written, failures.data(), Gcm(), keys.data(), keys.size(),
                                  entry_of.get(), input.context_hash(), input.elements(), &bad);
  if (stale) {
    CHECK(status == Status::kStale && out.IsUntouched());
    return;
  }
  if (!elements.has_value()) {
    CHECK(status == Status::kMalformed && bad == expected_bad && out.IsUntouched());
    return;
  }
  if (out.len() < needed) {
    CHECK(status == Status::kMisuse && out.IsUntouched());
    return;
  }
  CHECK(status == Status::kOk);
  const Bytes answer = EncodeElements(expected);
  CHECK(Bytes(out.data(), out.data() + written) == answer);
  CHECK(out.HoldsNothingFrom(written));
  for (size_t i = 0; i < input.count; ++i) CHECK(failures.data()[i] == failed[i]);
}

void FuzzReplace(const Input& input) {
  const auto& known = GetKeys().keys;
  const Span key_entries[] = {
      {known[0].key_entry.data(), known[0].key_entry.size()}, {nullptr, 0}, {known[1].key_entry.data(), 35}};
  size_t expected_bad = 0;
  const auto elements = DecodeElements(input.bytes.data(), input.bytes.size(), input.count, false, &expected_bad);
  const std::unique_ptr<uint16_t[]> entry_of(new uint16_t[input.count]);
  std::vector<Element> expected;
  for (size_t i = 0; i < input.count; ++i) {
    entry_of[i] = input.numbers[3] == 0xff ? kEntryUnknown : static_cast<uint16_t>((i + input.numbers[3]) % 4);
    if (!elements.has_value()) continue;
    const auto message = ParseAlone(*(*elements)[i]);
    expected.emplace_back();
    if (!message.has_value() || message->version != 0xe1 || entry_of[i] > 2 || key_entries[entry_of[i]].len == 0) {
      continue;
    }
    Bytes replaced = {0xe1, message->suite};
    const Span& entry = key_entries[entry_of[i]];
    replaced.insert(replaced.end(), entry.data, entry.data + entry.len);
    Append(&replaced, message->nonce);
    Append(&replaced, message->sealed);
    expected.back() = replaced;
  }
  const Bytes answer = EncodeElements(expected);
  Guarded out(input.OutputBytes(answer.size()));
  size_t written = 0;
  size_t bad = 0;
  const Status status = ReplaceKeyEntries(out.data(), out.len(), &written, key_entries, 3, entry_of.get(),
                                          input.elements(), &bad);
  if (!elements.has_value()) {
    // The output may run out before the elements do.
    CHECK((status == Status::kMalformed && bad == expected_bad) || status == Status::kMisuse);
    CHECK(out.IsUntouched());
    return;
  }
  if (out.len() < answer.size()) {
    CHECK(status == Status::kMisuse && out.IsUntouched());
    return;
  }
  CHECK(status == Status::kOk && Bytes(out.data(), out.data() + written) == answer);
}

void FuzzOpenPacked(const Input& input) {
  const TestKey& key = input.key();
  const Span packed = {input.bytes.data(), input.bytes.size()};
  const auto parsed = ParsePackedAlone(input.bytes);
  const Status verified = VerifyPacked(Gcm(), key.handle, input.context_hash(), packed);
  if (!parsed.has_value()) {
    CHECK(verified == Status::kNotAMessage);
  } else {
    const bool right = parsed->suite == key.suite && BatchTagAlone(key, input.context_hash(), *parsed) == parsed->tag;
    CHECK(verified == (right ? Status::kOk : Status::kDecryptFailed));
  }
  CHECK(VerifyPacked(Gcm(), GetKeys().stale, input.context_hash(), packed) ==
        (parsed.has_value() ? Status::kStale : Status::kNotAMessage));

  // A part is opened whether or not the value was verified: that is the caller's business.
  const size_t first = input.numbers[2];
  const size_t num_messages = input.count;
  const bool inside = parsed.has_value() && first + num_messages <= parsed->sealed.size();
  size_t sealed_offset = 0;
  if (inside) sealed_offset = num_messages == 0 ? input.bytes.size() - 16 : parsed->sealed_offsets[first];
  if (input.Has(kHostileOffset)) sealed_offset += static_cast<size_t>(input.numbers[3]) - 128;
  size_t needed = 0;
  if (inside) {
    for (size_t i = 0; i < num_messages; ++i) {
      needed += ElementLen(Bytes(parsed->sealed[first + i].size() - (parsed->suite == 2 ? 48 : 16)));
    }
  }
  Guarded out(input.OutputBytes(needed));
  Guarded failures(num_messages);
  size_t written = 0;
  const Status status =
      OpenPackedPart(out.data(), out.len(), &written, failures.data(), Gcm(), key.handle, input.context_hash(), packed,
                     first, num_messages, sealed_offset);
  if (!parsed.has_value()) {
    CHECK(status == Status::kNotAMessage && out.IsUntouched());
    return;
  }
  if (!inside) {
    CHECK(status == Status::kMisuse && out.IsUntouched());
    return;
  }
  const bool offset_right = num_messages > 0 && sealed_offset == parsed->sealed_offsets[first];
  if (offset_right && parsed->suite != key.suite) {
    CHECK(status == Status::kDecryptFailed && out.IsUntouched());
    return;
  }
  if (offset_right && out.len() < needed) {
    CHECK(status == Status::kMisuse && out.IsUntouched());
    return;
  }
  // Whatever another offset names is opened as these messages. It is none of them, but where the input has one moved
  // there, as a length that was changed before it does: no length is in a message's AAD, and the batch tag is not asked.
  if (!offset_right && status != Status::kOk) return;
  CHECK(status == Status::kOk);
  std::vector<Element> expected;
  size_t at = sealed_offset;
  for (size_t i = 0; i < num_messages; ++i) {
    const size_t len = parsed->sealed[first + i].size();
    CHECK(at <= input.bytes.size() - 16 && len <= input.bytes.size() - 16 - at);
    const auto sealed = input.bytes.begin() + static_cast<ptrdiff_t>(at);
    expected.push_back(OpenAlone(key, input.context_hash(), NonceOf(parsed->r, first + i),
                                 Bytes(sealed, sealed + static_cast<ptrdiff_t>(len))));
    CHECK(failures.data()[i] == !expected.back().has_value());
    at += len;
  }
  CHECK(Bytes(out.data(), out.data() + written) == EncodeElements(expected));
  CHECK(out.HoldsNothingFrom(written));
}

// The bytes are: number of parts, their first messages, number of steps, the steps, then the elements. A step below 64
// seals that part, 0xfe finishes, 0xff gives up, anything else seals part (step & 63) with an output a byte too short.
void FuzzSealPacked(const Input& input) {
  const TestKey& key = input.key();
  size_t at = 0;
  const auto next = [&]() -> uint8_t { return at < input.bytes.size() ? input.bytes[at++] : 0; };
  std::vector<uint32_t> firsts(next());
  for (uint32_t& first : firsts) first = next();
  std::vector<uint8_t> steps(next());
  for (uint8_t& step : steps) step = next();
  const Bytes in(input.bytes.begin() + static_cast<ptrdiff_t>(at), input.bytes.end());

  bool ascending = !firsts.empty() && firsts.size() <= kPartsMax && firsts[0] == 0;
  for (size_t i = 1; i < firsts.size(); ++i) ascending = ascending && firsts[i] > firsts[i - 1];
  ascending = ascending && firsts.back() < input.count && input.count <= kBatchMessagesMax;
  Handle ticket = 0;
  const Status begun = BeginPacked(Gcm(), key.handle, input.context_hash(), input.count, firsts.data(), firsts.size(),
                                   &ticket);
  CHECK(begun == (ascending ? Status::kOk : Status::kMisuse));
  CHECK(GetKeyTableUsage().tickets_used == (ascending ? 1u : 0u));
  if (!ascending) return;

  size_t unused = 0;
  const auto plaintexts = DecodeElements(in.data(), in.size(), input.count, false, &unused);
  // Where the elements are wrong as a whole, every part gets all of them, and has to notice if they are not its own.
  size_t packed_len = 2 + key.key_entry.size() + 24;
  const size_t lengths_at = packed_len;
  packed_len += 4 * input.count;
  std::vector<size_t> sealed_at;
  std::vector<Span> part_in;
  size_t in_at = 0;
  for (size_t i = 0; i < firsts.size(); ++i) {
    const size_t end = i + 1 < firsts.size() ? firsts[i + 1] : input.count;
    sealed_at.push_back(packed_len);
    if (!plaintexts.has_value()) {
      part_in.push_back({in.data(), in.size()});
      continue;
    }
    const size_t start = in_at;
    for (size_t m = firsts[i]; m < end; ++m) {
      // The width of the head is the fuzzer's choice.
      in_at += (in[in_at] == 0xc4 ? 2 : in[in_at] == 0xc5 ? 3 : 5) + (*plaintexts)[m]->size();
      packed_len += (*plaintexts)[m]->size() + key.overhead();
    }
    part_in.push_back({in.data() + start, in_at - start});
  }
  if (!plaintexts.has_value()) packed_len += in.size() + input.count * key.overhead();
  packed_len += 16;
  const Span key_entry = {key.key_entry.data(), key.key_entry.size()};

  Guarded packed(packed_len);
  uint64_t claimed = 0;
  uint64_t sealed = 0;
  bool ended = false;
  for (const uint8_t step : steps) {
    if (step == 0xff) {
      CHECK(ReleaseSlot(ticket) == (ended ? Status::kStale : Status::kOk));
      ended = true;
      continue;
    }
    if (step == 0xfe) {
      const bool short_output = input.Has(kOutputShort);
      const Status status =
          FinishPacked(packed.data(), packed_len - (short_output ? 1 : 0), Gcm(), ticket, key_entry);
      const uint64_t all = ~0ull >> (64 - firsts.size());
      if (ended) {
        CHECK(status == Status::kStale);
      } else if (sealed != all || short_output) {
        CHECK(status == Status::kMisuse);
      } else if (plaintexts.has_value()) {
        CHECK(status == Status::kOk);
        const Bytes value(packed.data(), packed.data() + packed_len);
        const auto parsed = ParsePackedAlone(value);
        CHECK(parsed.has_value() && parsed->key_entry == key.key_entry && parsed->sealed.size() == input.count);
        CHECK(BatchTagAlone(key, input.context_hash(), *parsed) == parsed->tag);
        CHECK(VerifyPacked(Gcm(), key.handle, input.context_hash(), {value.data(), value.size()}) == Status::kOk);
        for (size_t i = 0; i < input.count; ++i) {
          CHECK(OpenAlone(key, input.context_hash(), NonceOf(parsed->r, i), parsed->sealed[i]) == (*plaintexts)[i]);
        }
      }
      ended = true;
      continue;
    }
    const size_t part = step & 63;
    if (part >= firsts.size()) {
      size_t bad = 0;
      CHECK(SealPackedPart(packed.data() + lengths_at, 4 * input.count, packed.data(), 0, Gcm(), ticket, part,
                           {in.data(), in.size()}, &bad) == (ended ? Status::kStale : Status::kMisuse));
      continue;
    }
    const size_t end = part + 1 < firsts.size() ? firsts[part + 1] : input.count;
    size_t room = packed_len - 16 - sealed_at[part];
    if (step >= 64 && plaintexts.has_value()) {
      room = 0;
      for (size_t m = firsts[part]; m < end; ++m) room += (*plaintexts)[m]->size() + key.overhead();
      room -= 1;
    }
    size_t bad = 0;
    const Status status = SealPackedPart(packed.data() + lengths_at, 4 * input.count, packed.data() + sealed_at[part],
                                         room, Gcm(), ticket, part, part_in[part], &bad);
    if (ended) {
      CHECK(status == Status::kStale);
      continue;
    }
    const bool first_claim = (claimed >> part & 1) == 0;
    claimed |= 1ull << part;
    size_t expected_bad = 0;
    const bool readable =
        DecodeElements(part_in[part].data, part_in[part].len, end - firsts[part], false, &expected_bad).has_value();
    if (!first_claim) {
      CHECK(status == Status::kMisuse);
    } else if (!readable) {
      CHECK(status == Status::kMalformed && bad == firsts[part] + expected_bad);
    } else if (step >= 64 && plaintexts.has_value()) {
      CHECK(status == Status::kMisuse);
    } else {
      CHECK(status == Status::kOk);
      sealed |= 1ull << part;
    }
  }
  CHECK(ReleaseSlot(ticket) == (ended ? Status::kStale : Status::kOk));
  CHECK(GetKeyTableUsage().tickets_used == 0);
}

void Run(const Input& input) {
  switch (input.operation % kOperations) {
    case kPlan:
      return FuzzPlan(input);
    case kSeal:
      return FuzzSeal(input);
    case kOpen:
      return FuzzOpen(input);
    case kReplace:
      return FuzzReplace(input);
    case kOpenPacked:
      return FuzzOpenPacked(input);
    case kSealPacked:
      return FuzzSealPacked(input);
  }
}

// Seeds.

Bytes SeedOf(uint8_t operation, uint8_t options, size_t count, const Bytes& numbers, const Bytes& bytes) {
  Bytes seed = {operation, options, static_cast<uint8_t>(count >> 8), static_cast<uint8_t>(count)};
  Append(&seed, numbers);
  CHECK(seed.size() == kHeadBytes);
  Append(&seed, bytes);
  return seed;
}

Bytes SealedSeed(const TestKey& key, bool detached, const Bytes& in, size_t count) {
  Bytes out(in.size() + 200 * count);
  size_t written = 0;
  size_t bad = 0;
  const Span key_entry = detached ? Span{nullptr, 0} : Span{key.key_entry.data(), key.key_entry.size()};
  CHECK(SealBatch(out.data(), out.size(), &written, Gcm(), key.handle, kContextHashes[0], key_entry, false,
                  {in.data(), in.size(), count}, &bad) == Status::kOk);
  out.resize(written);
  return out;
}

Bytes PackedSeed(const TestKey& key, const Bytes& in, const std::vector<size_t>& sizes) {
  size_t len = 2 + key.key_entry.size() + 24;
  const size_t lengths_at = len;
  const size_t sealed_at = lengths_at + 4 * sizes.size();
  len = sealed_at + 16;
  for (const size_t size : sizes) len += size + key.overhead();
  Bytes packed(len);
  const uint32_t first = 0;
  Handle ticket = 0;
  size_t bad = 0;
  CHECK(BeginPacked(Gcm(), key.handle, kContextHashes[0], sizes.size(), &first, 1, &ticket) == Status::kOk);
  CHECK(SealPackedPart(packed.data() + lengths_at, sealed_at - lengths_at, packed.data() + sealed_at,
                       len - 16 - sealed_at, Gcm(), ticket, 0, {in.data(), in.size()}, &bad) == Status::kOk);
  CHECK(FinishPacked(packed.data(), len, Gcm(), ticket, {key.key_entry.data(), key.key_entry.size()}) == Status::kOk);
  return packed;
}

std::vector<Bytes> MakeSeeds() {
  std::vector<Bytes> seeds;
  const std::vector<size_t> batches[] = {
      {}, {0}, {5}, {0, 1, 16, 64, 300}, std::vector<size_t>(70, 9), {15, 16, 17, 31, 32, 33, 1024}};
  for (const auto& sizes : batches) {
    Noise noise(sizes.size());
    Bytes in;
    for (size_t i = 0; i < sizes.size(); ++i) AppendElement(&in, noise.Take(sizes[i]), i % 4 + 2);
    const size_t count = sizes.size();
    Bytes with_nil = in;
    with_nil.push_back(0xc0);
    seeds.push_back(SeedOf(kPlan, 0, count, {58, 4, 0, 0}, in));
    seeds.push_back(SeedOf(kPlan, kNilAllowed, count + 1, {171, 64, 0, 0}, with_nil));
    Bytes mixed;
    for (const TestKey& key : GetKeys().keys) {
      const uint8_t suite = key.suite == 2 ? kSuite2 : 0;
      seeds.push_back(SeedOf(kSeal, suite | kNilAllowed, count + 1, {0, 0, 0, 0}, with_nil));
      seeds.push_back(SeedOf(kSeal, suite | kDetached, count, {0, 0, 0, 0}, in));
      for (const bool detached : {false, true}) {
        const Bytes sealed = SealedSeed(key, detached, in, count);
        Append(&mixed, sealed);
        seeds.push_back(SeedOf(kOpen, suite, count, {0, 2, 2, 0}, sealed));
        seeds.push_back(SeedOf(kReplace, suite, count, {0, 0, 0, 0}, sealed));
      }
      if (count == 0) continue;
      seeds.push_back(SeedOf(kOpenPacked, suite, count, {0, 0, 0, 0}, PackedSeed(key, in, sizes)));
      Bytes steps = {1, 0, 3, 0, 0, 0xfe};
      if (count > 3) steps = {3, 0, 1, 3, 5, 2, 0, 1, 1, 0xfe};
      Append(&steps, in);
      seeds.push_back(SeedOf(kSealPacked, suite, count, {0, 0, 0, 0}, steps));
    }
    seeds.push_back(SeedOf(kOpen, 0, 4 * count, {0, 8, 2, 0}, mixed));
    seeds.push_back(SeedOf(kOpen, kHostileEntries, 4 * count, {0, 1, 1, 3}, mixed));
  }
  return seeds;
}

void WriteSeeds(const std::string& directory) {
  const std::vector<Bytes> seeds = MakeSeeds();
  for (size_t i = 0; i < seeds.size(); ++i) {
    std::ofstream file(directory + "/seed-" + std::to_string(i), std::ios::binary);
    file.write(reinterpret_cast<const char*>(seeds[i].data()), static_cast<std::streamsize>(seeds[i].size()));
    CHECK(file.good());
  }
}

}  // namespace
}  // namespace keyfold

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  using namespace keyfold;
  if (BestImplementation() == Implementation::kNone) {
    std::puts("this processor has no kernel: not fuzzed");
    std::exit(0);
  }
  CHECK(OpenKeyTable());
  (void)GetKeys();
  if (*argc == 3 && std::string((*argv)[1]) == "--write-seeds") {
    WriteSeeds((*argv)[2]);
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t len) {
  using namespace keyfold;
  if (len < kHeadBytes) return 0;
  Input input{bytes[0], bytes[1], static_cast<size_t>(bytes[2] << 8 | bytes[3]), {}, {}};
  std::memcpy(input.numbers, bytes + 4, 4);
  input.bytes.assign(bytes + kHeadBytes, bytes + len);
  const Bytes before = input.bytes;
  Run(input);
  // What a caller sent is only read.
  CHECK(input.bytes == before);
  return 0;
}
