// The memory of the key table, the words that its slots live and die by, and its sources of randomness.

#include "key_table.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

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

constexpr uint64_t kIndexBits = 14;
static_assert(kSlots <= (1u << kIndexBits), "an index fits a handle");
constexpr uint64_t kPinBits = 25;
constexpr uint64_t kPinsMask = (1ull << kPinBits) - 1;
constexpr uint64_t kDying = 1ull << kPinBits;
constexpr uint64_t kGenerationShift = kPinBits + 1;
// 38 bits, so that a handle stays below 2^52 and is exact as a JavaScript number. At a million keys a second they last
// for three days of nothing else; then the table is full for good rather than hand out a number again.
constexpr uint64_t kGenerationMax = (1ull << 38) - 1;

constexpr size_t kGuardBytes = 64 * 1024;

// FreeList is a stack of slots. `head` holds the top's index + 1 (0: empty), below a count of changes: without it a
// thread that was interrupted could put a head back that is no longer first (the ABA problem).
struct FreeList {
  std::atomic<uint64_t> head;
  std::atomic<uint32_t> used;
};
constexpr uint64_t kFreeIndexBits = 16;
constexpr uint64_t kFreeIndexMask = (1ull << kFreeIndexBits) - 1;

// Memory is everything that lies in the wiped pages. A forked child finds `open` 0, and gets nothing out of it.
struct Memory {
  std::atomic<uint32_t> open;
  std::atomic<uint64_t> last_generation;
  std::atomic<uint64_t> scratch_used;
  std::atomic<uint64_t> hash_seed;
  FreeList free_keys;
  FreeList free_tickets;
  std::atomic<uint16_t> next_free[kSlots];
  Slot slots[kSlots];
  alignas(64) uint8_t scratch[kScratchAreas][kScratchBytes];
};

// The one mutable static: where the memory is. What is in it survives no fork; this does.
struct Table {
  std::once_flag once;
  Memory* memory = nullptr;
  bool locked = false;
  std::atomic<uint64_t> nonces{0};
  std::atomic<void (*)(uint8_t*, size_t)> insecure_random{nullptr};
};
Table table;

void PushFree(FreeList* list, size_t index) {
  uint64_t head = list->head.load(std::memory_order_relaxed);
  uint64_t pushed;
  do {
    table.memory->next_free[index].store(static_cast<uint16_t>(head & kFreeIndexMask), std::memory_order_relaxed);
    pushed = ((head >> kFreeIndexBits) + 1) << kFreeIndexBits | (index + 1);
  } while (!list->head.compare_exchange_weak(head, pushed, std::memory_order_release, std::memory_order_relaxed));
}

bool PopFree(FreeList* list, size_t* index) {
  uint64_t head = list->head.load(std::memory_order_acquire);
  uint64_t popped;
  do {
    if ((head & kFreeIndexMask) == 0) return false;
    *index = (head & kFreeIndexMask) - 1;
    popped = ((head >> kFreeIndexBits) + 1) << kFreeIndexBits |
             table.memory->next_free[*index].load(std::memory_order_relaxed);
  } while (!list->head.compare_exchange_weak(head, popped, std::memory_order_acquire, std::memory_order_acquire));
  return true;
}

FreeList* FreeListOf(size_t index) {
  return index < kKeySlots ? &table.memory->free_keys : &table.memory->free_tickets;
}

// Maps the table between two stretches of addresses that nobody can touch, so that a run past the end of something
// else ends there.
void* MapMemory(size_t len) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  void* mapped = mmap(nullptr, len + 2 * kGuardBytes, PROT_NONE, flags, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  uint8_t* memory = static_cast<uint8_t*>(mapped) + kGuardBytes;
  // Out of core dumps, and zeros in a forked child.
  if (mprotect(memory, len, PROT_READ | PROT_WRITE) == 0 && madvise(memory, len, MADV_DONTDUMP) == 0 &&
      madvise(memory, len, MADV_WIPEONFORK) == 0) {
    return memory;
  }
  munmap(mapped, len + 2 * kGuardBytes);
  return nullptr;
}

void Open() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (kGuardBytes % page != 0) return;
  const size_t len = (sizeof(Memory) + page - 1) / page * page;
  void* mapped = MapMemory(len);
  if (mapped == nullptr) return;
  table.locked = mlock(mapped, len) == 0;
  // The pages are zeros, which is what every part of Memory begins as.
  table.memory = static_cast<Memory*>(mapped);
  for (size_t i = kSlots; i-- > 0;) PushFree(FreeListOf(i), i);
  uint64_t seed;
  FillRandom(reinterpret_cast<uint8_t*>(&seed), sizeof(seed));
  table.memory->hash_seed.store(seed);
  table.memory->open.store(1, std::memory_order_release);
}

bool IsOpen() { return table.memory->open.load(std::memory_order_acquire) == 1; }

// The slot that a handle would name; nullptr where there cannot be one.
Slot* SlotOf(Handle handle, uint64_t* generation) {
  const size_t index = handle & ((1u << kIndexBits) - 1);
  *generation = handle >> kIndexBits;
  // 0 is what a free slot, and every slot of a forked child, has for a generation.
  if (*generation == 0 || *generation > kGenerationMax || index >= kSlots) return nullptr;
  return &table.memory->slots[index];
}

void WipeAndFree(Slot* slot) {
  const size_t index = static_cast<size_t>(slot - table.memory->slots);
  Wipe(reinterpret_cast<uint8_t*>(slot) + sizeof(slot->word), sizeof(Slot) - sizeof(slot->word));
  slot->word.store(0, std::memory_order_release);
  FreeListOf(index)->used.fetch_sub(1, std::memory_order_relaxed);
  PushFree(FreeListOf(index), index);
}

// Marks the slot as dying if it still has this generation, and wipes it where nobody pins it.
bool Kill(Slot* slot, uint64_t generation) {
  uint64_t word = slot->word.load(std::memory_order_acquire);
  do {
    if (word >> kGenerationShift != generation || (word & kDying) != 0) return false;
  } while (!slot->word.compare_exchange_weak(word, word | kDying, std::memory_order_acq_rel));
  if ((word & kPinsMask) == 0) WipeAndFree(slot);
  return true;
}

}  // namespace

bool OpenKeyTable() {
  std::call_once(table.once, Open);
  return table.memory != nullptr;
}

KeyTableUsage GetKeyTableUsage() {
  if (!IsOpen()) return {0, 0, false};
  return {table.memory->free_keys.used.load(std::memory_order_relaxed),
          table.memory->free_tickets.used.load(std::memory_order_relaxed), table.locked};
}

Status NewSlot(Kind kind, Slot** slot, Handle* handle) {
  if (!IsOpen()) return Status::kStale;
  FreeList* list = kind == Kind::kTicket ? &table.memory->free_tickets : &table.memory->free_keys;
  const uint64_t generation = table.memory->last_generation.fetch_add(1, std::memory_order_relaxed) + 1;
  size_t index;
  if (generation > kGenerationMax || !PopFree(list, &index)) return Status::kFull;
  list->used.fetch_add(1, std::memory_order_relaxed);
  Slot* taken = &table.memory->slots[index];
  taken->kind = kind;
  // One pin is the maker's.
  taken->word.store((generation << kGenerationShift) | 1, std::memory_order_release);
  *slot = taken;
  *handle = (generation << kIndexBits) | index;
  return Status::kOk;
}

Status ReleaseSlot(Handle handle) {
  uint64_t generation;
  Slot* slot = SlotOf(handle, &generation);
  return slot != nullptr && Kill(slot, generation) ? Status::kOk : Status::kStale;
}

void WipeAllSlots() {
  for (Slot& slot : table.memory->slots) {
    const uint64_t generation = slot.word.load(std::memory_order_acquire) >> kGenerationShift;
    if (generation != 0) (void)Kill(&slot, generation);
  }
}

Slot* PinSlot(Handle handle, Kind kind) {
  uint64_t generation;
  Slot* slot = SlotOf(handle, &generation);
  if (slot == nullptr) return nullptr;
  uint64_t word = slot->word.load(std::memory_order_acquire);
  do {
    if (word >> kGenerationShift != generation || (word & kDying) != 0) return nullptr;
  } while (!slot->word.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel));
  if (slot->kind == kind) return slot;
  UnpinSlot(slot);
  return nullptr;
}

void UnpinSlot(Slot* slot) {
  const uint64_t before = slot->word.fetch_sub(1, std::memory_order_acq_rel);
  if ((before & kDying) != 0 && (before & kPinsMask) == 1) WipeAndFree(slot);
}

Scratch::Scratch() {
  std::atomic<uint64_t>& used = table.memory->scratch_used;
  uint64_t areas = used.load(std::memory_order_relaxed);
  for (;;) {
    if (areas == ~0ull) {
      // More threads than areas: one of them is done within a batch.
      sched_yield();
      areas = used.load(std::memory_order_relaxed);
      continue;
    }
    index_ = static_cast<size_t>(__builtin_ctzll(~areas));
    if (used.compare_exchange_weak(areas, areas | (1ull << index_), std::memory_order_acquire)) break;
  }
  area_ = new (table.memory->scratch[index_]) ScratchArea;
}

Scratch::~Scratch() {
  Wipe(area_, sizeof(ScratchArea));
  table.memory->scratch_used.fetch_and(~(1ull << index_), std::memory_order_release);
}

void FillRandom(uint8_t* out, size_t len) {
  const auto insecure = table.insecure_random.load(std::memory_order_relaxed);
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

void DrawNonce(uint8_t* out, size_t len) {
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
  seed.counter = table.nonces.fetch_add(1, std::memory_order_relaxed) + 1;
  uint8_t digest[32];
  if (len > sizeof(digest)) std::abort();
  Sha256 hash;
  Sha256Init(&hash);
  Sha256Update(&hash, reinterpret_cast<const uint8_t*>(&seed), sizeof(seed));
  Sha256Final(digest, &hash);
  std::memcpy(out, digest, len);
  Wipe(&seed, sizeof(seed));
  Wipe(digest, sizeof(digest));
}

uint64_t HashSeed() { return table.memory->hash_seed.load(std::memory_order_relaxed); }

void InsecureSetRandomForTests(void (*fill)(uint8_t* out, size_t len)) { table.insecure_random.store(fill); }

}  // namespace keyfold
