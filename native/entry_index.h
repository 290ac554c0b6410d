// Which distinct key entries the messages of a batch name.

#ifndef KEYFOLD_NATIVE_ENTRY_INDEX_H_
#define KEYFOLD_NATIVE_ENTRY_INDEX_H_

#include <cstring>

#include "message_batch.h"
#include "message_layout.h"

namespace keyfold {

inline bool SameBytes(const Span& a, const Span& b) { return a.len == b.len && std::memcmp(a.data, b.data, a.len) == 0; }

inline uint64_t Fold(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// HashBytes hashes at least eight bytes. Callers choose them, and could make all of their entries meet in one place if
// they knew the seed.
inline uint64_t HashBytes(const Span& bytes, uint8_t suite) {
  uint64_t hash = HashSeed() ^ (static_cast<uint64_t>(bytes.len) << 8 | suite);
  uint64_t word;
  for (size_t at = 0; at + 8 < bytes.len; at += 8) {
    std::memcpy(&word, bytes.data + at, 8);
    hash = Fold(hash ^ word, 0x9e3779b97f4a7c15ull);
  }
  std::memcpy(&word, bytes.data + bytes.len - 8, 8);
  return Fold(hash ^ word, 0xd1342543de82ef95ull);
}

// Places holds numbers below kEntriesMax by the hash of what they stand for: open addressing, never more than half full.
class Places {
 public:
  static constexpr uint16_t kNone = 0xffff;

  // Find returns the number for which is(number) holds, or kNone; then Add puts one where Find has ended.
  template <class Is>
  uint16_t Find(uint64_t hash, Is is) {
    if (!clear_) Clear();
    for (place_ = hash % kPlaces;; place_ = (place_ + 1) % kPlaces) {
      const uint16_t number = numbers_[place_];
      if (number == kNone || (hashes_[place_] == hash && is(number))) {
        hash_ = hash;
        return number;
      }
    }
  }

  void Add(uint16_t number) {
    numbers_[place_] = number;
    hashes_[place_] = hash_;
  }

 private:
  static constexpr size_t kPlaces = 2 * kEntriesMax;

  // Only when first used: most batches name one entry and never come here.
  void Clear() {
    for (uint16_t& number : numbers_) number = kNone;
    clear_ = true;
  }

  bool clear_ = false;
  size_t place_ = 0;
  uint64_t hash_ = 0;
  uint16_t numbers_[kPlaces];
  uint64_t hashes_[kPlaces];
};

// EntryIndex numbers the distinct entries of a batch in the order in which they are met.
class EntryIndex {
 public:
  EntryIndex(NamedEntry* entries, const Span* callers, size_t num_callers)
      : entries_(entries), callers_(callers), num_callers_(num_callers) {}

  // Find returns the number of the entry that the message names, kEntryUnknown where it names none, and
  // kEntryMalformed where it names one too many.
  uint16_t Find(const Layout& layout) {
    const Span& named = layout.reference;
    if (last_ != kEntryUnknown && layout.suite == last_suite_ && SameBytes(named, last_reference_)) return last_;
    const Span* key_entry = layout.is_inline ? &named : FindCaller(named);
    if (key_entry == nullptr) return kEntryUnknown;
    const uint16_t found = Number(layout.suite, *key_entry);
    if (found == kEntryMalformed) return found;
    last_suite_ = layout.suite;
    last_reference_ = named;
    return last_ = found;
  }

  size_t num_entries() const { return num_entries_; }

 private:
  uint16_t Number(uint8_t suite, const Span& key_entry) {
    const uint16_t found = places_.Find(HashBytes(key_entry, suite), [&](uint16_t number) {
      return entries_[number].suite == suite && SameBytes(entries_[number].key_entry, key_entry);
    });
    if (found != Places::kNone) return found;
    if (num_entries_ == kEntriesMax) return kEntryMalformed;
    entries_[num_entries_].suite = suite;
    entries_[num_entries_].key_entry = key_entry;
    entries_[num_entries_].num_messages = 0;
    places_.Add(static_cast<uint16_t>(num_entries_));
    return static_cast<uint16_t>(num_entries_++);
  }

  const Span* FindCaller(const Span& data_key_id) {
    if (!callers_added_) AddCallers();
    const uint16_t found = caller_places_.Find(HashBytes(data_key_id, 0), [&](uint16_t number) {
      return SameBytes({callers_[number].data, kDataKeyIdBytes}, data_key_id);
    });
    return found == Places::kNone ? nullptr : &callers_[found];
  }

  void AddCallers() {
    for (size_t i = 0; i < num_callers_; i++) {
      const Span id = {callers_[i].data, kDataKeyIdBytes};
      const uint16_t found = caller_places_.Find(HashBytes(id, 0), [&](uint16_t number) {
        return SameBytes({callers_[number].data, kDataKeyIdBytes}, id);
      });
      if (found == Places::kNone) caller_places_.Add(static_cast<uint16_t>(i));
    }
    callers_added_ = true;
  }

  NamedEntry* entries_;
  size_t num_entries_ = 0;
  Places places_;
  const Span* callers_;
  size_t num_callers_;
  bool callers_added_ = false;
  Places caller_places_;
  // What the message before named.
  uint16_t last_ = kEntryUnknown;
  uint8_t last_suite_ = 0;
  Span last_reference_ = {nullptr, 0};
};

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_ENTRY_INDEX_H_
