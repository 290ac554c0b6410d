// The key table: every key of the process, in memory that is locked, left out of core dumps and wiped on fork.
//
//   +-----------+--------------------+-------------------+------------------+
//   | which are | kKeySlots slots    | kTicketSlots      | kScratchAreas    |
//   | free      | of 512 bytes       | of 512 bytes      | of 8 KiB         |
//   +-----------+--------------------+-------------------+------------------+
//
// A slot is named by a handle: its index and a generation, never 0 and never used twice. The generation stands in the
// slot itself, in one atomic word with the number of pins, so that a released slot, a reused one and one that fork has
// wiped all make the handle stale; a handle never names another key. Whoever uses a slot pins it. Releasing waits for
// nobody: it marks the slot, and the last pin wipes it.
//
// A forked child has no table: everything above is zeros to it, so that every handle is stale and no slot is to be had.
//
// The table is the only mutable static of the addon, shared by all threads.

#ifndef KEYFOLD_NATIVE_KEY_TABLE_H_
#define KEYFOLD_NATIVE_KEY_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "aes_gcm.h"
#include "sha2.h"
#include "xaes.h"

namespace keyfold {

// The same numbers stand in src/limits.ts, which tells why; a test compares them.
inline constexpr size_t kKeySlots = 12288;
inline constexpr size_t kTicketSlots = 256;
inline constexpr size_t kScratchAreas = 64;
inline constexpr size_t kPartsMax = 64;
inline constexpr size_t kMessageBytesMax = 16u << 20;
inline constexpr size_t kBatchMessagesMax = 65536;

inline constexpr size_t kMessageAadBytes = 1 + 16 + 32;
inline constexpr size_t kBatchNonceBytes = 20;

enum class Status : int {
  kOk = 0,
  kMalformed = 1,      // an element is not a byte string, or runs past the end
  kTooLong = 2,        // a message is longer than the limit
  kStale = 3,          // no such key any more
  kFull = 4,           // no slot is free
  kDecryptFailed = 5,
  kTooManyEntries = 6,
  kMisuse = 7,         // a broken promise of our own code: lengths, kinds, claims
  kNotAMessage = 8,    // the bytes are of no form that we write
};

// 0 is no handle.
using Handle = uint64_t;

enum class Kind : uint32_t { kFree = 0, kRaw, kMessageKey, kTicket };

// A key: raw (key material, a data key, a root key) or a message key with what is derived from it.
struct KeySlot {
  uint8_t key[32];
  uint8_t commitment[32];  // message keys
  uint8_t suite;           // message keys: 1 or 2
  bool seals;              // message keys: an unwrapped one only opens
  XaesKey xaes;            // of the key itself (raw), or of the sealing key (message key)
};

// A packed batch under way. Everything but the two atomic words is written before the handle is given out.
struct TicketSlot {
  uint64_t message_key;  // its handle
  uint8_t kx[32];
  uint8_t r[kBatchNonceBytes];
  uint8_t aad[kMessageAadBytes];
  uint8_t suite;
  uint32_t num_messages;
  uint32_t num_parts;
  uint16_t first_messages[kPartsMax];
  std::atomic<uint64_t> claimed;
  std::atomic<uint64_t> sealed;
};

struct alignas(64) Slot {
  // generation (38 bits) | dying (1) | pins (25). Generation 0: free.
  std::atomic<uint64_t> word;
  Kind kind;
  union {
    KeySlot key;
    TicketSlot ticket;
  };
};
static_assert(sizeof(Slot) == 512, "a slot has 512 bytes");

// Memory for what one call derives. Wiped by the Scratch that borrowed it.
struct alignas(64) ScratchArea {
  GcmKey gcm;
  uint8_t kx[32];
  uint8_t prk[64];
  uint8_t derived[32];
  uint8_t x[16];
  HkdfScratch hkdf;
};

// Scratch borrows an area of the table for the length of a call and wipes it at the end. A call takes one and hands it
// on: if it took a second, many threads could wait for each other's.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ScratchArea* operator->() { return area_; }
  ScratchArea* area() { return area_; }

 private:
  ScratchArea* area_;
  size_t index_;
};

// PinSlot keeps a slot from being wiped until UnpinSlot. nullptr where the handle is stale or names a slot of another
// kind.
[[nodiscard]] Slot* PinSlot(Handle handle, Kind kind);
void UnpinSlot(Slot* slot);

// Pin is a pinned slot for the length of a scope.
class Pin {
 public:
  Pin() = default;
  Pin(Handle handle, Kind kind) : slot_(PinSlot(handle, kind)) {}
  ~Pin() {
    if (slot_ != nullptr) UnpinSlot(slot_);
  }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

  void Acquire(Handle handle, Kind kind) { slot_ = PinSlot(handle, kind); }
  Slot* slot() const { return slot_; }
  KeySlot* key() const { return &slot_->key; }
  TicketSlot* ticket() const { return &slot_->ticket; }

 private:
  Slot* slot_ = nullptr;
};

struct KeyTableUsage {
  size_t slots_used;
  size_t tickets_used;
  bool locked;
};

// OpenKeyTable maps the table, once for the process; later calls do nothing. False if memory could not be mapped.
[[nodiscard]] bool OpenKeyTable();

KeyTableUsage GetKeyTableUsage();

// NewSlot takes a free slot and writes its handle. kFull where there is none, kStale in a forked child. The slot is
// pinned: the caller fills it and then calls UnpinSlot.
[[nodiscard]] Status NewSlot(Kind kind, Slot** slot, Handle* handle);

// ReleaseSlot makes the handle stale; the slot is wiped as soon as nobody uses it. kStale where it was already.
[[nodiscard]] Status ReleaseSlot(Handle handle);

void WipeAllSlots();

// FillRandom fills `out` from the kernel's random device and aborts the process where that fails: going on without
// randomness would be worse.
void FillRandom(uint8_t* out, size_t len);

// DrawNonce writes at most 32 bytes of SHA-256(random ‖ clock ‖ TSC ‖ counter): 20 are a batch's R, 24 the nonce of a
// wrapped key. Clones of a machine, and a random source that repeats, still do not draw the same.
void DrawNonce(uint8_t* out, size_t len);

// HashSeed is a random number of the process, for tables whose keys a caller chooses.
[[nodiscard]] uint64_t HashSeed();

// For tests only: another source of randomness. nullptr brings the kernel's back.
void InsecureSetRandomForTests(void (*fill)(uint8_t* out, size_t len));

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_KEY_TABLE_H_
