// The key table: handles and their generations, pins, wiping, fork, a random source that repeats, and the keys derived
// into it, against figures from another implementation of HKDF.

#include "../../native/key_table.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "../../native/keys.h"
#include "../../native/message_batch.h"
#include "../../native/packed_batch.h"
#include "check.h"

namespace keyfold {
namespace {

const AesGcm& Gcm() {
  const AesGcm* gcm = GetAesGcm(BestImplementation());
  CHECK(gcm != nullptr);
  return *gcm;
}

Handle Generate() {
  Handle handle = 0;
  CHECK(GenerateKey(Gcm(), &handle) == Status::kOk);
  return handle;
}

Handle Import(const Bytes& key) {
  Bytes source = key;
  Handle handle = 0;
  CHECK(ImportKey(Gcm(), source.data(), &handle) == Status::kOk);
  CHECK(source == Bytes(32));
  return handle;
}

Bytes Counting(size_t len) {
  Bytes bytes(len);
  for (size_t i = 0; i < len; ++i) bytes[i] = static_cast<uint8_t>(i);
  return bytes;
}

// The key itself, which nothing but a test looks at.
Bytes KeyOf(Handle handle, Kind kind) {
  Pin pin(handle, kind);
  CHECK(pin.slot() != nullptr);
  return Bytes(pin.key()->key, pin.key()->key + 32);
}

bool AllZero(const void* bytes, size_t len) {
  const auto* at = static_cast<const uint8_t*>(bytes);
  for (size_t i = 0; i < len; ++i) {
    if (at[i] != 0) return false;
  }
  return true;
}

size_t KeysUsed() { return GetKeyTableUsage().slots_used; }

void HandlesAreExactNumbersAndNeverNameAnotherKey() {
  std::set<Handle> seen;
  for (int i = 0; i < 1000; ++i) {
    const Handle handle = Generate();
    CHECK(handle != 0 && handle < (1ull << 53));
    CHECK(seen.insert(handle).second);
    CHECK(ReleaseSlot(handle) == Status::kOk);
    CHECK(ReleaseSlot(handle) == Status::kStale);
    CHECK(Pin(handle, Kind::kRaw).slot() == nullptr);
  }
  // The slot has another tenant now; none of the old handles gets at it.
  const Handle tenant = Generate();
  for (const Handle handle : seen) CHECK(Pin(handle, Kind::kRaw).slot() == nullptr);
  CHECK(ReleaseSlot(tenant) == Status::kOk);
  const Handle never[] = {0, 1, 0x3fff, 1ull << 52, (1ull << 53) - 1, ~0ull};
  for (const Handle handle : never) {
    CHECK(Pin(handle, Kind::kRaw).slot() == nullptr);
    CHECK(ReleaseSlot(handle) == Status::kStale);
  }
  CHECK(KeysUsed() == 0);
}

void AHandleOfAnotherKindIsStale() {
  const Handle raw = Generate();
  Handle message_key = 0;
  CHECK(CreateMessageKey(Gcm(), raw, 1, &message_key) == Status::kOk);
  const uint8_t context_hash[32] = {};
  const uint32_t first = 0;
  Handle ticket = 0;
  CHECK(BeginPacked(Gcm(), message_key, context_hash, 1, &first, 1, &ticket) == Status::kOk);
  const Handle handles[] = {raw, message_key, ticket};
  const Kind kinds[] = {Kind::kRaw, Kind::kMessageKey, Kind::kTicket};
  for (size_t h = 0; h < 3; ++h) {
    for (size_t k = 0; k < 3; ++k) CHECK((Pin(handles[h], kinds[k]).slot() != nullptr) == (h == k));
  }
  Handle out = 0;
  uint8_t wrapped[72];
  CHECK(CreateMessageKey(Gcm(), message_key, 1, &out) == Status::kStale);
  CHECK(DeriveKey(Gcm(), message_key, wrapped, 1, &out) == Status::kStale);
  CHECK(WrapKey(Gcm(), wrapped, message_key, nullptr, 0, raw, Kind::kRaw) == Status::kStale);
  CHECK(WrapKey(Gcm(), wrapped, raw, nullptr, 0, message_key, Kind::kRaw) == Status::kStale);
  CHECK(GetCommitment(raw, wrapped) == Status::kStale);
  CHECK(BeginPacked(Gcm(), raw, context_hash, 1, &first, 1, &out) == Status::kStale);
  for (const Handle handle : handles) CHECK(ReleaseSlot(handle) == Status::kOk);
}

void ReleasingWaitsForNobodyAndTheLastPinWipes() {
  const Handle handle = Generate();
  const Bytes key = KeyOf(handle, Kind::kRaw);
  const Slot* slot = nullptr;
  {
    Pin outer(handle, Kind::kRaw);
    slot = outer.slot();
    {
      Pin inner(handle, Kind::kRaw);
      CHECK(ReleaseSlot(handle) == Status::kOk);
      CHECK(ReleaseSlot(handle) == Status::kStale);
      CHECK(Pin(handle, Kind::kRaw).slot() == nullptr);
      CHECK(std::memcmp(inner.key()->key, key.data(), 32) == 0);
    }
    CHECK(std::memcmp(outer.key()->key, key.data(), 32) == 0);
    CHECK(KeysUsed() == 1);
  }
  CHECK(AllZero(slot, sizeof(Slot)));
  CHECK(KeysUsed() == 0);
}

void WipingAllTakesEverythingAndPinnedSlotsAsTheirPinsReturn() {
  const Handle raw = Generate();
  const Handle pinned = Generate();
  Handle message_key = 0;
  CHECK(CreateMessageKey(Gcm(), raw, 2, &message_key) == Status::kOk);
  const uint8_t context_hash[32] = {};
  const uint32_t first = 0;
  Handle ticket = 0;
  CHECK(BeginPacked(Gcm(), message_key, context_hash, 1, &first, 1, &ticket) == Status::kOk);
  const Slot* slots[3];
  {
    Pin a(raw, Kind::kRaw);
    Pin b(message_key, Kind::kMessageKey);
    Pin c(ticket, Kind::kTicket);
    slots[0] = a.slot();
    slots[1] = b.slot();
    slots[2] = c.slot();
  }
  const Slot* held = nullptr;
  {
    Pin pin(pinned, Kind::kRaw);
    held = pin.slot();
    WipeAllSlots();
    for (const Slot* slot : slots) CHECK(AllZero(slot, sizeof(Slot)));
    CHECK(!AllZero(pin.key()->key, 32));
    CHECK(KeysUsed() == 1 && GetKeyTableUsage().tickets_used == 0);
  }
  CHECK(AllZero(held, sizeof(Slot)));
  CHECK(KeysUsed() == 0);
  for (const Handle handle : {raw, pinned, message_key, ticket}) CHECK(ReleaseSlot(handle) == Status::kStale);
  // The table serves again afterwards.
  CHECK(ReleaseSlot(Generate()) == Status::kOk);
}

void AFullTableSaysSoAndRecovers() {
  std::vector<Handle> handles;
  for (size_t i = 0; i < kKeySlots; ++i) handles.push_back(Generate());
  Handle handle = 0;
  CHECK(GenerateKey(Gcm(), &handle) == Status::kFull);
  CHECK(KeysUsed() == kKeySlots);
  CHECK(ReleaseSlot(handles.back()) == Status::kOk);
  handles.back() = Generate();
  // Each of them is the key that was made for it.
  std::set<Bytes> keys;
  for (const Handle h : handles) CHECK(keys.insert(KeyOf(h, Kind::kRaw)).second);

  // Tickets have places of their own.
  CHECK(ReleaseSlot(handles.back()) == Status::kOk);
  CHECK(CreateMessageKey(Gcm(), handles.front(), 1, &handles.back()) == Status::kOk);
  const uint8_t context_hash[32] = {};
  const uint32_t first = 0;
  for (size_t i = 0; i < kTicketSlots; ++i) {
    CHECK(BeginPacked(Gcm(), handles.back(), context_hash, 1, &first, 1, &handle) == Status::kOk);
  }
  CHECK(BeginPacked(Gcm(), handles.back(), context_hash, 1, &first, 1, &handle) == Status::kFull);
  CHECK(GetKeyTableUsage().tickets_used == kTicketSlots);
  WipeAllSlots();
  CHECK(KeysUsed() == 0 && GetKeyTableUsage().tickets_used == 0);
}

void ThreadsNeverSeeTheKeyOfAnother() {
  constexpr int kThreads = 4;
  constexpr int kRounds = 5000;
  std::atomic<Handle> shared{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&shared, t] {
      for (int i = 0; i < kRounds; ++i) {
        const Bytes key(32, static_cast<uint8_t>(t + 1));
        const Handle handle = Import(key);
        // Another thread's handle may die at any moment, but as long as it is pinned it shows one whole key.
        {
          Pin pin(shared.exchange(handle), Kind::kRaw);
          if (pin.slot() != nullptr) {
            const uint8_t first = pin.key()->key[0];
            CHECK(first >= 1 && first <= kThreads);
            for (const uint8_t byte : pin.key()->key) CHECK(byte == first);
          }
        }
        CHECK(KeyOf(handle, Kind::kRaw) == key);
        CHECK(ReleaseSlot(handle) == Status::kOk);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(KeysUsed() == 0);
}

// Runs `check` in a forked child, which ends without running the destructors of the parent's objects.
template <class Check>
void InForkedChild(Check check) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    check();
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void AForkedChildFindsEveryHandleStaleAndSealsNothing() {
  const Handle raw = Generate();
  Handle message_key = 0;
  CHECK(CreateMessageKey(Gcm(), raw, 1, &message_key) == Status::kOk);
  const uint8_t context_hash[32] = {};
  const uint32_t first = 0;
  Handle ticket = 0;
  CHECK(BeginPacked(Gcm(), message_key, context_hash, 1, &first, 1, &ticket) == Status::kOk);
  const Slot* slot = Pin(message_key, Kind::kMessageKey).slot();
  InForkedChild([&] {
    CHECK(AllZero(slot, sizeof(Slot)));
    const Bytes element = {0xc4, 1, 'm'};
    Bytes out(256);
    size_t written = 0;
    size_t bad = 0;
    CHECK(SealBatch(out.data(), out.size(), &written, Gcm(), message_key, context_hash, {nullptr, 0}, false,
                    {element.data(), element.size(), 1}, &bad) == Status::kStale);
    CHECK(SealPackedPart(out.data(), 4, out.data() + 4, 200, Gcm(), ticket, 0, {element.data(), element.size()},
                         &bad) == Status::kStale);
    CHECK(out == Bytes(256));
    uint8_t wrapped[72];
    CHECK(WrapKey(Gcm(), wrapped, raw, nullptr, 0, raw, Kind::kRaw) == Status::kStale);
    // Nor does it make keys of its own: its copy of the table is not locked.
    Handle handle = 0;
    CHECK(GenerateKey(Gcm(), &handle) == Status::kStale);
    CHECK(ReleaseSlot(raw) == Status::kStale);
    WipeAllSlots();
    CHECK(GetKeyTableUsage().slots_used == 0);
  });
  // The parent notices nothing of it.
  CHECK(Pin(message_key, Kind::kMessageKey).slot() != nullptr);
  WipeAllSlots();
}

void RepeatingRandom(uint8_t* out, size_t len) { std::memset(out, 0x5a, len); }

void ARepeatingRandomSourceRepeatsNoNonce() {
  InsecureSetRandomForTests(RepeatingRandom);
  std::set<Bytes> seen;
  for (int i = 0; i < 20000; ++i) {
    Bytes r(kBatchNonceBytes);
    DrawNonce(r.data(), r.size());
    CHECK(seen.insert(r).second);
  }
  // Nor do wrapped keys: two of them under one nonce would give away what they differ by.
  const Handle raw = Import(Counting(32));
  std::set<Bytes> nonces;
  for (int i = 0; i < 1000; ++i) {
    Bytes wrapped(72);
    CHECK(WrapKey(Gcm(), wrapped.data(), raw, nullptr, 0, raw, Kind::kRaw) == Status::kOk);
    CHECK(nonces.insert(Bytes(wrapped.begin(), wrapped.begin() + 24)).second);
  }
  InsecureSetRandomForTests(nullptr);
  CHECK(ReleaseSlot(raw) == Status::kOk);
}

// One line of /proc/self/smaps tells what the kernel promises about the pages of a mapping.
void TheMemoryIsLockedAndLeftOutOfDumpsAndForks() {
  const Handle handle = Generate();
  const auto address = reinterpret_cast<uintptr_t>(Pin(handle, Kind::kRaw).slot());
  CHECK(ReleaseSlot(handle) == Status::kOk);
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  while (std::getline(smaps, line)) {
    uintptr_t start = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2) inside = start <= address && address < end;
    if (!inside || line.rfind("VmFlags:", 0) != 0) continue;
    std::set<std::string> flags;
    std::istringstream words(line.substr(8));
    for (std::string word; words >> word;) flags.insert(word);
    CHECK(flags.count("dd") == 1 && flags.count("wf") == 1);
#if !defined(__SANITIZE_ADDRESS__)  // Under the sanitizer mlock does nothing.
    CHECK((flags.count("lo") == 1) == GetKeyTableUsage().locked);
#endif
    return;
  }
  CHECK(!"the table was found in smaps");
}

// Figures: HKDF-SHA-512 of the key 00 01 … 1f with an empty salt, computed with Python's hmac module.
void KeysAreDerivedAsTheFormatSays() {
  const Handle raw = Import(Counting(32));
  Handle derived = 0;
  const std::string label = "keyfold/root/v1/material";
  CHECK(DeriveKey(Gcm(), raw, reinterpret_cast<const uint8_t*>(label.data()), label.size(), &derived) == Status::kOk);
  CHECK(KeyOf(derived, Kind::kRaw) == FromHex("c812860f3ec5200549f5396a83340f68efb487b267b9f14d6a86be0c1dd773f6"));

  const Bytes commitment = FromHex("bad2c7d8bb5d47312ebd2e42b3213f8dd1eba1a63b33f4458cc1e904029179e8");
  const char* const sealing_keys[] = {"a14b2b9fbceb97d15772dee2b3ea0825603bd11d34650640f2a2f574c9ff8522",
                                      "7e2b7b8a96b191bcda1bb8cb754e6e9709ab077813744d6b90bfeed87855edaa"};
  for (uint8_t suite = 1; suite <= 2; ++suite) {
    Handle created = 0;
    Handle opened = 0;
    CHECK(CreateMessageKey(Gcm(), raw, suite, &created) == Status::kOk);
    CHECK(OpenMessageKey(Gcm(), raw, suite, commitment.data(), &opened) == Status::kOk);
    XaesKey expected;
    XaesInit(&expected, Gcm(), FromHex(sealing_keys[suite - 1]).data());
    for (const Handle handle : {created, opened}) {
      Bytes out(32);
      CHECK(GetCommitment(handle, out.data()) == Status::kOk);
      CHECK(out == commitment);
      Pin pin(handle, Kind::kMessageKey);
      CHECK(pin.key()->suite == suite);
      CHECK(pin.key()->seals == (handle == created));
      CHECK(std::memcmp(pin.key()->xaes.aes.round_keys, expected.aes.round_keys, sizeof(AesKey::round_keys)) == 0);
      CHECK(std::memcmp(pin.key()->xaes.k1, expected.k1, sizeof(expected.k1)) == 0);
    }
  }
  // All 32 bytes of the commitment count.
  for (size_t i = 0; i < 32; ++i) {
    Bytes other = commitment;
    other[i] ^= 1;
    Handle handle = 0;
    const size_t used = KeysUsed();
    CHECK(OpenMessageKey(Gcm(), raw, 1, other.data(), &handle) == Status::kDecryptFailed);
    CHECK(KeysUsed() == used);
  }
  Handle handle = 0;
  CHECK(CreateMessageKey(Gcm(), raw, 0, &handle) == Status::kMisuse);
  CHECK(CreateMessageKey(Gcm(), raw, 3, &handle) == Status::kMisuse);
  WipeAllSlots();
}

void AWrappedKeyOpensOnlyWholeAndUnderItsAad() {
  const Handle wrapping = Generate();
  const Handle raw = Import(Counting(32));
  const Bytes aad = Counting(55);
  Bytes wrapped(72);
  CHECK(WrapKey(Gcm(), wrapped.data(), wrapping, aad.data(), aad.size(), raw, Kind::kRaw) == Status::kOk);
  Handle opened = 0;
  CHECK(UnwrapKey(Gcm(), wrapping, aad.data(), aad.size(), wrapped.data(), wrapped.size(), &opened) == Status::kOk);
  CHECK(KeyOf(opened, Kind::kRaw) == Counting(32));
  const size_t used = KeysUsed();
  Handle never = 0;
  for (size_t len = 0; len < wrapped.size(); ++len) {
    CHECK(UnwrapKey(Gcm(), wrapping, aad.data(), aad.size(), wrapped.data(), len, &never) == Status::kDecryptFailed);
  }
  for (size_t i = 0; i < wrapped.size(); ++i) {
    Bytes damaged = wrapped;
    damaged[i] ^= 0x20;
    CHECK(UnwrapKey(Gcm(), wrapping, aad.data(), aad.size(), damaged.data(), damaged.size(), &never) ==
          Status::kDecryptFailed);
  }
  for (size_t i = 0; i < aad.size(); ++i) {
    Bytes other = aad;
    other[i] ^= 0x20;
    CHECK(UnwrapKey(Gcm(), wrapping, other.data(), other.size(), wrapped.data(), wrapped.size(), &never) ==
          Status::kDecryptFailed);
  }
  CHECK(UnwrapKey(Gcm(), raw, aad.data(), aad.size(), wrapped.data(), wrapped.size(), &never) ==
        Status::kDecryptFailed);
  CHECK(KeysUsed() == used);

  // A message key is wrapped as the key that it was made from.
  Handle message_key = 0;
  CHECK(CreateMessageKey(Gcm(), raw, 1, &message_key) == Status::kOk);
  CHECK(WrapKey(Gcm(), wrapped.data(), wrapping, nullptr, 0, message_key, Kind::kMessageKey) == Status::kOk);
  CHECK(UnwrapKey(Gcm(), wrapping, nullptr, 0, wrapped.data(), wrapped.size(), &opened) == Status::kOk);
  CHECK(KeyOf(opened, Kind::kRaw) == Counting(32));

  // A caller's bytes of any length; where they do not open, nothing of them is there.
  for (const size_t len : {size_t{0}, size_t{1}, size_t{31}, size_t{4096}}) {
    const Bytes plaintext = Noise(len).Take(len);
    Bytes sealed(len + kWrapOverheadBytes);
    Bytes out(len);
    CHECK(WrapBytes(Gcm(), sealed.data(), wrapping, nullptr, 0, plaintext.data(), len) == Status::kOk);
    CHECK(UnwrapBytes(Gcm(), out.data(), wrapping, nullptr, 0, sealed.data(), sealed.size()) == Status::kOk);
    CHECK(out == plaintext);
    sealed.back() ^= 1;
    CHECK(UnwrapBytes(Gcm(), out.data(), wrapping, nullptr, 0, sealed.data(), sealed.size()) ==
          Status::kDecryptFailed);
    CHECK(out == Bytes(len));
  }
  WipeAllSlots();
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
  HandlesAreExactNumbersAndNeverNameAnotherKey();
  AHandleOfAnotherKindIsStale();
  ReleasingWaitsForNobodyAndTheLastPinWipes();
  WipingAllTakesEverythingAndPinnedSlotsAsTheirPinsReturn();
  AFullTableSaysSoAndRecovers();
  ThreadsNeverSeeTheKeyOfAnother();
  AForkedChildFindsEveryHandleStaleAndSealsNothing();
  ARepeatingRandomSourceRepeatsNoNonce();
  TheMemoryIsLockedAndLeftOutOfDumpsAndForks();
  KeysAreDerivedAsTheFormatSays();
  AWrappedKeyOpensOnlyWholeAndUnderItsAad();
  return 0;
}
