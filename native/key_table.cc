#include "key_table.h"

#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "wipe.h"

namespace keyfold {
namespace {

constexpr size_t kSlots = kKeySlots + kTicketSlots;
constexpr size_t kScratchBytes = 8192;
static_assert(sizeof(ScratchArea) <= kScratchBytes, "scratch areas are 8 KiB");
static_assert(kScratchAreas == 64, "one bit each in a word");
constexpr size_t kTableBytes = kSlots * sizeof(Slot) + kScratchAreas * kScratchBytes;

constexpr uint64_t kIndexBits = 14;
static_assert(kSlots <= (1u << kIndexBits), "an index fits a handle");
constexpr uint64_t kPinBits = 25;
constexpr uint64_t kPinsMask = (1ull << kPinBits) - 1;
constexpr uint64_t kDying = 1ull << kPinBits;
constexpr uint64_t kGenerationShift = kPinBits + 1;
// 38 bits, so that a handle stays below 2^52 and is exact as a JavaScript number.
constexpr uint64_t kGenerationMax = (1ull << 38) - 1;

// The one mutable static: where the table is, and which of its slots are free.
struct Table {
  Slot* slots = nullptr;
  uint8_t* scratch = nullptr;
  bool locked = false;
  std::atomic<uint64_t> scratch_used{0};
  std::atomic<uint64_t> generation{0};
  std::atomic<uint64_t> batches{0};
  std::atomic<void (*)(uint8_t*, size_t)> random{nullptr};
  std::mutex free_mutex;
  uint16_t free_keys[kKeySlots];
  size_t num_free_keys = 0;
  uint16_t free_tickets[kTicketSlots];
  size_t num_free_tickets = 0;
};
Table table;
std::once_flag opened;

void Open() {
  void* memory =
      mmap(nullptr, kTableBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return;
  // Out of core dumps, and zero in a forked child, which then finds every handle stale.
  if (madvise(memory, kTableBytes, MADV_DONTDUMP) != 0) return;
  if (madvise(memory, kTableBytes, MADV_WIPEONFORK) != 0) return;
  table.locked = mlock(memory, kTableBytes) == 0;
  table.slots = static_cast<Slot*>(memory);
  table.scratch = static_cast<uint8_t*>(memory) + kSlots * sizeof(Slot);
  for (size_t i = 0; i < kKeySlots; i++) {
    table.free_keys[i] = static_cast<uint16_t>(kKeySlots - 1 - i);
  }
  for (size_t i = 0; i < kTicketSlots; i++) {
    table.free_tickets[i] = static_cast<uint16_t>(kSlots - 1 - i);
  }
  table.num_free_keys = kKeySlots;
  table.num_free_tickets = kTicketSlots;
}

void WipeAndFree(Slot* slot) {
  const size_t index = static_cast<size_t>(slot - table.slots);
  Wipe(reinterpret_cast<uint8_t*>(slot) + sizeof(slot->word), sizeof(Slot) - sizeof(slot->word));
  slot->word.store(0, std::memory_order_release);
  std::lock_guard<std::mutex> lock(table.free_mutex);
  if (index < kKeySlots) {
    table.free_keys[table.num_free_keys++] = static_cast<uint16_t>(index);
  } else {
    table.free_tickets[table.num_free_tickets++] = static_cast<uint16_t>(index);
  }
}

// Marks the slot as dying if it still has this word's generation, and wipes it where nobody pins it.
bool Kill(Slot* slot, uint64_t generation) {
  uint64_t word = slot->word.load(std::memory_order_acquire);
  for (;;) {
    if (word >> kGenerationShift != generation || (word & kDying) != 0) return false;
    if (slot->word.compare_exchange_weak(word, word | kDying, std::memory_order_acq_rel)) break;
  }
  if ((word & kPinsMask) == 0) WipeAndFree(slot);
  return true;
}

void Unpin(Slot* slot) {
  const uint64_t before = slot->word.fetch_sub(1, std::memory_order_acq_rel);
  if ((before & kDying) != 0 && (before & kPinsMask) == 1) WipeAndFree(slot);
}

}  // namespace

bool OpenKeyTable() {
  std::call_once(opened, Open);
  return table.slots != nullptr;
}

KeyTableUsage GetKeyTableUsage() {
  std::lock_guard<std::mutex> lock(table.free_mutex);
  return {kKeySlots - table.num_free_keys, kTicketSlots - table.num_free_tickets, table.locked};
}

Status NewSlot(Kind kind, Slot** slot, Handle* handle) {
  size_t index;
  {
    std::lock_guard<std::mutex> lock(table.free_mutex);
    if (kind == Kind::kTicket) {
      if (table.num_free_tickets == 0) return Status::kFull;
      index = table.free_tickets[--table.num_free_tickets];
    } else {
      if (table.num_free_keys == 0) return Status::kFull;
      index = table.free_keys[--table.num_free_keys];
    }
  }
  uint64_t generation;
  do {
    generation = (table.generation.fetch_add(1, std::memory_order_relaxed) + 1) & kGenerationMax;
  } while (generation == 0);
  Slot* taken = &table.slots[index];
  taken->kind = kind;
  // One pin is the maker's, until the slot is published.
  taken->word.store((generation << kGenerationShift) | 1, std::memory_order_release);
  *slot = taken;
  *handle = (generation << kIndexBits) | index;
  return Status::kOk;
}

void PublishSlot(Slot* slot) { Unpin(slot); }

Status ReleaseSlot(Handle handle) {
  const size_t index = handle & ((1u << kIndexBits) - 1);
  if (handle == 0 || index >= kSlots) return Status::kStale;
  return Kill(&table.slots[index], handle >> kIndexBits) ? Status::kOk : Status::kStale;
}

void WipeAllSlots() {
  for (size_t i = 0; i < kSlots; i++) {
    const uint64_t generation =
        table.slots[i].word.load(std::memory_order_acquire) >> kGenerationShift;
    if (generation != 0) (void)Kill(&table.slots[i], generation);
  }
}

void Pin::Acquire(Handle handle, Kind kind) {
  const size_t index = handle & ((1u << kIndexBits) - 1);
  const uint64_t generation = handle >> kIndexBits;
  if (generation == 0 || index >= kSlots) return;
  Slot* slot = &table.slots[index];
  uint64_t word = slot->word.load(std::memory_order_acquire);
  for (;;) {
    if (word >> kGenerationShift != generation || (word & kDying) != 0) return;
    if (slot->word.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel)) break;
  }
  if (slot->kind != kind) {
    Unpin(slot);
    return;
  }
  slot_ = slot;
}

Pin::~Pin() {
  if (slot_ != nullptr) Unpin(slot_);
}

Scratch::Scratch() {
  uint64_t used = table.scratch_used.load(std::memory_order_relaxed);
  for (;;) {
    if (used == ~0ull) {
      // More threads than areas: one of them is done within a batch.
      used = table.scratch_used.load(std::memory_order_relaxed);
      continue;
    }
    index_ = static_cast<size_t>(__builtin_ctzll(~used));
    if (table.scratch_used.compare_exchange_weak(used, used | (1ull << index_),
                                                 std::memory_order_acquire)) {
      break;
    }
  }
  area_ = new (table.scratch + index_ * kScratchBytes) ScratchArea;
}

Scratch::~Scratch() {
  Wipe(area_, sizeof(ScratchArea));
  table.scratch_used.fetch_and(~(1ull << index_), std::memory_order_release);
}

void FillRandom(uint8_t* out, size_t len) {
  const auto insecure = table.random.load(std::memory_order_relaxed);
  if (insecure != nullptr) {
    insecure(out, len);
    return;
  }
  while (len > 0) {
    const ssize_t got = getrandom(out, len, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) std::abort();
    out += got;
    len -= static_cast<size_t>(got);
  }
}

void DrawBatchNonce(uint8_t r[kBatchNonceBytes]) {
  struct {
    uint8_t random[32];
    uint64_t clock_ns;
    uint64_t tsc;
    uint64_t counter;
  } seed;
  FillRandom(seed.random, sizeof(seed.random));
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  seed.clock_ns = static_cast<uint64_t>(now.tv_sec) * 1000000000ull + static_cast<uint64_t>(now.tv_nsec);
#if defined(__x86_64__)
  seed.tsc = __rdtsc();
#else
  clock_gettime(CLOCK_MONOTONIC, &now);
  seed.tsc = static_cast<uint64_t>(now.tv_nsec);
#endif
  seed.counter = table.batches.fetch_add(1, std::memory_order_relaxed) + 1;
  Sha256 hash;
  Sha256Init(&hash);
  Sha256Update(&hash, reinterpret_cast<const uint8_t*>(&seed), sizeof(seed));
  uint8_t digest[32];
  Sha256Final(digest, &hash);
  std::memcpy(r, digest, kBatchNonceBytes);
  Wipe(&seed, sizeof(seed));
  Wipe(digest, sizeof(digest));
}

void InsecureSetRandomForTests(void (*fill)(uint8_t* out, size_t len)) { table.random.store(fill); }

}  // namespace keyfold
