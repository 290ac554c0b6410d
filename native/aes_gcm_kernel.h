// AES-256-GCM, written once over a vector of 128-bit lanes. aes_gcm_vaes.cc and aes_gcm_aesni.cc include this file
// after their target pragma and instantiate Kernel with their vector. Everything is in an anonymous namespace: each
// of the two has its own copy, compiled for its own instructions.
//
// How it is fast. CTR keeps eight vectors in flight, since AESENC has a latency of about four cycles and two can
// start in each. GHASH sums the products of many blocks with powers of H and reduces once. Carry-less
// multiplication and AES run side by side, so both are put in one instruction stream:
//
//     short messages (up to eight vectors)   as many of one length as make eight vectors, together with their tags
//     long messages                          eight vectors at a time: "bulk"; then the rest as a short message: "tail"
//
// The blocks that mask the tags are encrypted for a whole group at once, and the messages of a group are sorted by
// their number of vectors; both orders are seen in timing only through lengths, which are public.
//
// GHASH's field elements are held byte-reversed, and powers of H are multiplied by x once, so that products of
// bit-reflected elements need no shift (Gueron and Kounavis, "Intel Carry-Less Multiplication Instruction and its
// Usage for Computing the GCM Mode", and its form in Linux's aes-gcm-vaes-avx512.S by Biggers).
//
// A kernel's Vector has: Vec, kLanes, and the static functions used below.

#ifndef KEYFOLD_NATIVE_AES_GCM_KERNEL_H_
#define KEYFOLD_NATIVE_AES_GCM_KERNEL_H_

#include <immintrin.h>

#include <cstring>
#include <type_traits>
#include <utility>

#include "aes_gcm.h"
#include "wipe.h"

#define KEYFOLD_INLINE __attribute__((always_inline)) inline
#define KEYFOLD_NOINLINE __attribute__((noinline))

namespace keyfold {
namespace {

constexpr size_t kRounds = 14;
// GCM's counter is 1 in the block that masks the tag and 2 in the first block of the message.
constexpr uint32_t kTagCounter = 1;
constexpr uint32_t kFirstCounter = 2;

enum class Operation { kSeal, kOpen };

template <class Step, size_t... kIndices>
KEYFOLD_INLINE void Unroll(Step step, std::index_sequence<kIndices...>) {
  (step(std::integral_constant<size_t, kIndices>{}), ...);
}

// Repeat calls step with 0, 1, … kCount - 1 as compile-time constants, so that arrays of vectors become registers.
template <size_t kCount, class Step>
KEYFOLD_INLINE void Repeat(Step step) {
  Unroll(step, std::make_index_sequence<kCount>{});
}

#define KEYFOLD_STEP(name) [&](auto name) __attribute__((always_inline))

// --- Single blocks and the key schedule ---------------------------------------------------------------------------

KEYFOLD_INLINE __m128i LoadBlock(const uint8_t* in) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
}

KEYFOLD_INLINE void StoreBlock(uint8_t* out, __m128i block) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), block);
}

KEYFOLD_INLINE __m128i ReverseBytes(__m128i block) {
  return _mm_shuffle_epi8(block, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

// NextRoundKey makes a round key from the one before the last and the word that FIPS 197's KeyExpansion adds.
KEYFOLD_INLINE __m128i NextRoundKey(__m128i before_last, __m128i word) {
  __m128i key = _mm_xor_si128(before_last, _mm_slli_si128(before_last, 4));
  key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
  return _mm_xor_si128(key, word);
}

// ExpandKey. AESENCLAST of one word repeated four times is SubWord: ShiftRows changes nothing there. It is several
// times as fast as AESKEYGENASSIST.
void ExpandKey(AesKey* out, const uint8_t key[32]) {
  const __m128i rotate_last_word = _mm_set1_epi32(0x0c0f0e0d);
  __m128i even = LoadBlock(key);
  __m128i odd = LoadBlock(key + 16);
  StoreBlock(out->round_keys, even);
  StoreBlock(out->round_keys + 16, odd);
  Repeat<7>(KEYFOLD_STEP(i) {
    const __m128i rcon = _mm_set1_epi32(1 << i);
    even = NextRoundKey(even, _mm_aesenclast_si128(_mm_shuffle_epi8(odd, rotate_last_word), rcon));
    StoreBlock(out->round_keys + 16 * (2 * i + 2), even);
    if constexpr (i < 6) {
      odd = NextRoundKey(odd, _mm_aesenclast_si128(_mm_shuffle_epi32(even, 0xff), _mm_setzero_si128()));
      StoreBlock(out->round_keys + 16 * (2 * i + 3), odd);
    }
  });
}

template <size_t kBlocks>
KEYFOLD_INLINE void EncryptBlocksOnce(uint8_t* out, const AesKey& key, const uint8_t* in) {
  __m128i x[kBlocks];
  Repeat<kBlocks>(KEYFOLD_STEP(i) { x[i] = _mm_xor_si128(LoadBlock(in + 16 * i), LoadBlock(key.round_keys)); });
  Repeat<kRounds - 1>(KEYFOLD_STEP(r) {
    const __m128i round_key = LoadBlock(key.round_keys + 16 * (r + 1));
    Repeat<kBlocks>(KEYFOLD_STEP(i) { x[i] = _mm_aesenc_si128(x[i], round_key); });
  });
  const __m128i last_key = LoadBlock(key.round_keys + 16 * kRounds);
  Repeat<kBlocks>(KEYFOLD_STEP(i) { StoreBlock(out + 16 * i, _mm_aesenclast_si128(x[i], last_key)); });
}

void EncryptBlocks(uint8_t* out, const AesKey& key, const uint8_t* in, size_t num_blocks) {
  for (; num_blocks >= 8; num_blocks -= 8, in += 128, out += 128) EncryptBlocksOnce<8>(out, key, in);
  for (; num_blocks >= 2; num_blocks -= 2, in += 32, out += 32) EncryptBlocksOnce<2>(out, key, in);
  if (num_blocks != 0) EncryptBlocksOnce<1>(out, key, in);
}

// --- The kernel ---------------------------------------------------------------------------------------------------

template <class Vector>
struct Kernel {
  using Vec = typename Vector::Vec;
  static constexpr size_t kLanes = Vector::kLanes;
  static constexpr size_t kVectorBytes = kLanes * kAesBlockBytes;
  static constexpr size_t kBulkVectors = 8;
  static constexpr size_t kBulkBlocks = kBulkVectors * kLanes;
  static constexpr size_t kBulkBytes = kBulkVectors * kVectorBytes;
  static_assert(kBulkBlocks + 1 <= kGcmPowersMax);

  // A message of a group by its class: its number of vectors, or long.
  static constexpr size_t kLongClass = kBulkVectors;
  static constexpr size_t kClasses = kBulkVectors + 1;

  // --- GHASH ---

  // Products summed and not yet reduced (Karatsuba): those of the low halves, of the high halves, and of the sums.
  struct Product {
    Vec low, high, sums;
  };

  static KEYFOLD_INLINE Product Zero() { return {Vector::Zero(), Vector::Zero(), Vector::Zero()}; }

  static KEYFOLD_INLINE void MultiplyAdd(Product* product, Vec x, Vec power, Vec power_sums) {
    const Vec x_sums = Vector::Xor(x, Vector::SwapHalves(x));
    product->low = Vector::Xor(product->low, Vector::template Multiply<0x00>(x, power));
    product->high = Vector::Xor(product->high, Vector::template Multiply<0x11>(x, power));
    product->sums = Vector::Xor(product->sums, Vector::template Multiply<0x00>(x_sums, power_sums));
    // Otherwise the compiler adds everything up at the end, for which there are not enough registers.
    Vector::Pin(&product->low);
    Vector::Pin(&product->high);
    Vector::Pin(&product->sums);
  }

  static KEYFOLD_INLINE Vec Reduce(const Product& product) {
    const Vec polynomial = Vector::Broadcast(_mm_set_epi64x(static_cast<int64_t>(0xc200000000000000), 1));
    Vec middle = Vector::Xor3(product.sums, product.low, product.high);
    middle = Vector::Xor3(middle, Vector::SwapHalves(product.low),
                          Vector::template Multiply<0x01>(polynomial, product.low));
    return Vector::Xor3(product.high, Vector::SwapHalves(middle),
                        Vector::template Multiply<0x01>(polynomial, middle));
  }

  static KEYFOLD_INLINE Vec Multiply(Vec a, Vec b) {
    Product product = Zero();
    MultiplyAdd(&product, a, b, Vector::Xor(b, Vector::SwapHalves(b)));
    return Reduce(product);
  }

  // PowerOffset is where a vector of powers begins that goes down from H^power.
  static KEYFOLD_INLINE size_t PowerOffset(size_t power) { return (kGcmPowersMax - power) * kAesBlockBytes; }

  static KEYFOLD_INLINE void MultiplyAddPower(Product* product, Vec x, const GcmKey& key, size_t power_offset) {
    MultiplyAdd(product, x, Vector::Load(key.h_powers + power_offset), Vector::Load(key.h_sums + power_offset));
  }

  static KEYFOLD_INLINE void StorePowers(GcmKey* key, size_t power, Vec powers) {
    Vector::Store(key->h_powers + PowerOffset(power), powers);
    Vector::Store(key->h_sums + PowerOffset(power), Vector::Xor(powers, Vector::SwapHalves(powers)));
  }

  // EnsurePowers makes the powers up to H^needed: from k of them the next k, by one multiplication with H^k.
  static KEYFOLD_INLINE void EnsurePowers(GcmKey* key, size_t needed) {
    if (key->num_powers < needed) AddPowers(key, needed);
  }

  static KEYFOLD_NOINLINE void AddPowers(GcmKey* key, size_t needed) {
    while (key->num_powers < needed) {
      const size_t known = key->num_powers;
      const Vec top = Vector::Broadcast(LoadBlock(key->h_powers + PowerOffset(known)));
      for (size_t power = kLanes; power <= known && known + power <= kGcmPowersMax; power += kLanes) {
        const Vec powers = Vector::Load(key->h_powers + PowerOffset(power));
        StorePowers(key, known + power, Multiply(powers, top));
        key->num_powers = static_cast<uint32_t>(known + power);
      }
    }
  }

  // BlocksIn counts the last, partial block.
  static KEYFOLD_INLINE size_t BlocksIn(size_t len) {
    return len / kAesBlockBytes + (len % kAesBlockBytes != 0 ? 1 : 0);
  }

  static KEYFOLD_INLINE size_t PowersFor(size_t len) {
    const size_t blocks = BlocksIn(len);
    return (blocks < kBulkBlocks ? blocks : kBulkBlocks) + 1;
  }

  // --- CTR ---

  // FirstRound makes AES states from counter blocks whose last two words are little-endian.
  static KEYFOLD_INLINE Vec FirstRound(Vec counters, const GcmKey& key) {
    const Vec big_endian = Vector::Broadcast(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 7, 6, 5, 4, 3, 2, 1, 0));
    return Vector::Xor(Vector::ShuffleBytes(counters, big_endian), RoundKey(key, 0));
  }

  static KEYFOLD_INLINE Vec RoundKey(const GcmKey& key, size_t round) {
    return Vector::Broadcast(LoadBlock(key.aes.round_keys + kAesBlockBytes * round));
  }

  // MiddleRounds runs all rounds but the last; after round r it calls step(r), r = 0 … 12, with work to do meanwhile.
  template <size_t kCount, class Step>
  static KEYFOLD_INLINE void MiddleRounds(Vec (&x)[kCount], const GcmKey& key, Step step) {
    Repeat<kRounds - 1>(KEYFOLD_STEP(r) {
      const Vec round_key = RoundKey(key, r + 1);
      Repeat<kCount>(KEYFOLD_STEP(i) { x[i] = Vector::AesRound(x[i], round_key); });
      step(r);
    });
  }

  // LastRound encrypts or decrypts `in`: AES's last step adds a key, so adding both at once is the same.
  static KEYFOLD_INLINE Vec LastRound(Vec x, Vec in, Vec last_key) {
    return Vector::AesLastRound(x, Vector::Xor(in, last_key));
  }

  static KEYFOLD_INLINE Vec ReverseBlocks(Vec x) {
    const Vec reverse =
        Vector::Broadcast(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    return Vector::ShuffleBytes(x, reverse);
  }

  // --- A group of messages ---

  // Group is what a call works on, in order of classes. Vectors are read up to kBulkVectors past the last message.
  struct alignas(64) Group {
    // E(J0), what the tags are masked with.
    uint8_t masks[(kGcmGroup + kBulkVectors) * kAesBlockBytes];
    // GHASH's last block, byte-reversed: bits of ciphertext and bits of AAD.
    uint64_t lengths[kGcmGroup + kBulkVectors][2];
    uint32_t indices[kGcmGroup + kBulkVectors];
    // GHASH after the AAD.
    uint8_t aad_state[kAesBlockBytes];
    // The nonce prefix, and zeros.
    uint8_t nonce[kAesBlockBytes];
    GcmMessage* messages[kGcmGroup];
    size_t num_messages;
  };

  // CountersFrom makes the counter blocks of message index 0 from `counter` on, one in each lane.
  static KEYFOLD_INLINE Vec CountersFrom(const Group& group, uint32_t counter) {
    return Vector::AddWord3(Vector::Broadcast(LoadBlock(group.nonce)), Vector::LaneWord3(counter));
  }

  static KEYFOLD_INLINE Vec AadState(const Group& group) { return Vector::FirstLane(LoadBlock(group.aad_state)); }

  // Arrange fills in messages, indices and lengths, sorted by class. It sets how many messages each class has.
  static KEYFOLD_INLINE void Arrange(Group* group, GcmMessage* messages, uint64_t aad_len, size_t len_min,
                                     size_t len_max, size_t (&counts)[kClasses]) {
    if (ClassOf(len_min) == ClassOf(len_max)) {
      counts[ClassOf(len_max)] = group->num_messages;
      for (size_t i = 0; i < group->num_messages; ++i) Place(group, &messages[i], aad_len, i);
    } else {
      Sort(group, messages, aad_len, counts);
    }
    for (size_t i = 0; i < kLanes; ++i) group->indices[group->num_messages + i] = 0;
  }

  static KEYFOLD_NOINLINE void Sort(Group* group, GcmMessage* messages, uint64_t aad_len,
                                    size_t (&counts)[kClasses]) {
    uint8_t classes[kGcmGroup];
    for (size_t i = 0; i < group->num_messages; ++i) {
      classes[i] = static_cast<uint8_t>(ClassOf(messages[i].len));
      ++counts[classes[i]];
    }
    size_t places[kClasses];
    size_t place = 0;
    for (size_t c = 0; c < kClasses; ++c) {
      places[c] = place;
      place += counts[c];
    }
    for (size_t i = 0; i < group->num_messages; ++i) Place(group, &messages[i], aad_len, places[classes[i]]++);
  }

  static KEYFOLD_INLINE void Place(Group* group, GcmMessage* message, uint64_t aad_len, size_t at) {
    group->messages[at] = message;
    group->indices[at] = message->index;
    group->lengths[at][0] = static_cast<uint64_t>(message->len) * 8;
    group->lengths[at][1] = aad_len * 8;
  }

  static KEYFOLD_INLINE size_t ClassOf(size_t len) {
    if (len > kBulkBytes) return kLongClass;
    return len == 0 ? 0 : (len - 1) / kVectorBytes;
  }

  template <size_t kCount>
  static KEYFOLD_INLINE void MakeMasksOnce(Group* group, const GcmKey& key, size_t at) {
    Vec x[kCount];
    Repeat<kCount>(KEYFOLD_STEP(i) {
      const Vec nonces = Vector::WithIndices(LoadBlock(group->nonce), group->indices + at + i * kLanes);
      x[i] = FirstRound(Vector::AddWord3(nonces, Vector::Word3(kTagCounter)), key);
    });
    MiddleRounds(x, key, [](auto) {});
    Repeat<kCount>(KEYFOLD_STEP(i) {
      const Vec masks = Vector::AesLastRound(x[i], RoundKey(key, kRounds));
      Vector::Store(group->masks + (at + i * kLanes) * kAesBlockBytes, masks);
    });
  }

  static KEYFOLD_INLINE void MakeMasks(Group* group, const GcmKey& key) {
    size_t at = 0;
    for (; at + 8 * kLanes <= group->num_messages; at += 8 * kLanes) MakeMasksOnce<8>(group, key, at);
    for (; at + 2 * kLanes <= group->num_messages; at += 2 * kLanes) MakeMasksOnce<2>(group, key, at);
    for (; at < group->num_messages; at += kLanes) MakeMasksOnce<1>(group, key, at);
  }

  // --- Tails: messages, or ends of messages, of kVectors vectors each ---

  // How many tails of a length fill the pipeline.
  static constexpr size_t TailsAtOnce(size_t vectors) { return kBulkVectors / vectors; }

  // Unit is kMessages tails that are worked on together. Message m has the vectors from m * kVectors on.
  template <size_t kVectors, size_t kMessages>
  struct Unit {
    static constexpr size_t kCount = kVectors * kMessages;
    static constexpr size_t kTagVectors = (kMessages + kLanes - 1) / kLanes;
    // AES states, then what comes out.
    Vec x[kCount];
    Vec in[kCount];
    Product products[kMessages];
    size_t last_len[kMessages];
    size_t power_offset[kMessages];
    size_t position;
  };

  // StartUnit takes the messages from `position` up to `end`, from their byte `offset` on. If there are fewer than
  // kMessages, the last one is computed again for nothing.
  template <size_t kVectors, size_t kMessages>
  static KEYFOLD_INLINE void StartUnit(Unit<kVectors, kMessages>* unit, const Group& group, const GcmKey& key,
                                       size_t position, size_t end, size_t offset) {
    constexpr size_t kLast = kVectors - 1;
    const Vec first_counters =
        CountersFrom(group, kFirstCounter + static_cast<uint32_t>(offset / kAesBlockBytes));
    unit->position = position;
    Repeat<kMessages>(KEYFOLD_STEP(m) {
      const size_t at = position + m < end ? position + m : end - 1;
      const GcmMessage& message = *group.messages[at];
      const size_t len = message.len - offset;
      unit->last_len[m] = len - kLast * kVectorBytes;
      unit->power_offset[m] = PowerOffset(BlocksIn(len) + 1);
      unit->products[m] = Zero();
      Vec counters = Vector::WithIndex(first_counters, group.indices[at]);
      Repeat<kVectors>(KEYFOLD_STEP(v) {
        unit->x[m * kVectors + v] = FirstRound(counters, key);
        counters = Vector::AddWord3(counters, Vector::Word3(kLanes));
        const uint8_t* const from = message.in + offset + v * kVectorBytes;
        unit->in[m * kVectors + v] =
            v == kLast ? Vector::LoadPartial(from, unit->last_len[m]) : Vector::Load(from);
      });
    });
  }

  // HashStep adds one vector of ciphertext to GHASH, whose state before each message is `y`.
  template <size_t kStep, size_t kVectors, size_t kMessages, class Ciphertext>
  static KEYFOLD_INLINE void HashStep(Unit<kVectors, kMessages>* unit, const Ciphertext& ciphertext, const GcmKey& key,
                                      Vec y) {
    constexpr size_t kMessage = kStep / kVectors;
    constexpr size_t kVector = kStep % kVectors;
    Vec blocks = ReverseBlocks(ciphertext[kStep]);
    if constexpr (kVector == 0) blocks = Vector::Xor(blocks, y);
    MultiplyAddPower(&unit->products[kMessage], blocks, key, unit->power_offset[kMessage] + kVector * kVectorBytes);
  }

  // FinishTags multiplies in the lengths and masks the sums.
  template <size_t kVectors, size_t kMessages, size_t kTagVectors>
  static KEYFOLD_INLINE void FinishTags(Vec (&tags)[kTagVectors], const Unit<kVectors, kMessages>& unit,
                                        const Group& group, const GcmKey& key) {
    Vec parts[kMessages];
    Vec low[kTagVectors], high[kTagVectors], sums[kTagVectors];
    Repeat<kMessages>(KEYFOLD_STEP(m) { parts[m] = unit.products[m].low; });
    Vector::SumLanes(low, parts);
    Repeat<kMessages>(KEYFOLD_STEP(m) { parts[m] = unit.products[m].high; });
    Vector::SumLanes(high, parts);
    Repeat<kMessages>(KEYFOLD_STEP(m) { parts[m] = unit.products[m].sums; });
    Vector::SumLanes(sums, parts);
    const Vec h = Vector::Broadcast(LoadBlock(key.h_powers + PowerOffset(1)));
    const Vec h_sums = Vector::Broadcast(LoadBlock(key.h_sums + PowerOffset(1)));
    Repeat<kTagVectors>(KEYFOLD_STEP(t) {
      const size_t at = unit.position + t * kLanes;
      Product product = {low[t], high[t], sums[t]};
      MultiplyAdd(&product, Vector::Load(reinterpret_cast<const uint8_t*>(group.lengths[at])), h, h_sums);
      tags[t] = Vector::Xor(ReverseBlocks(Reduce(product)), Vector::Load(group.masks + at * kAesBlockBytes));
    });
  }

  template <size_t kMessage, size_t kVectors, size_t kMessages>
  static KEYFOLD_INLINE void StoreTail(const Unit<kVectors, kMessages>& unit, const GcmMessage& message,
                                       size_t offset) {
    Repeat<kVectors>(KEYFOLD_STEP(v) {
      uint8_t* const to = message.out + offset + v * kVectorBytes;
      if constexpr (v == kVectors - 1) {
        Vector::StorePartial(to, unit.x[kMessage * kVectors + v], unit.last_len[kMessage]);
      } else {
        Vector::Store(to, unit.x[kMessage * kVectors + v]);
      }
    });
  }

  // FinishSeal ends the encryption of a unit, leaves its ciphertext in x, and stores it.
  template <size_t kVectors, size_t kMessages>
  static KEYFOLD_INLINE void FinishSeal(Unit<kVectors, kMessages>* unit, const Group& group, const GcmKey& key,
                                        size_t end, size_t offset) {
    const Vec last_key = RoundKey(key, kRounds);
    Repeat<kVectors * kMessages>(KEYFOLD_STEP(i) { unit->x[i] = LastRound(unit->x[i], unit->in[i], last_key); });
    Repeat<kMessages>(KEYFOLD_STEP(m) {
      if (unit->position + m < end) StoreTail<m>(*unit, *group.messages[unit->position + m], offset);
      Vec* const last = &unit->x[m * kVectors + kVectors - 1];
      *last = Vector::KeepBytes(*last, unit->last_len[m]);
    });
  }

  template <size_t kVectors, size_t kMessages>
  static KEYFOLD_INLINE void StoreTags(const Unit<kVectors, kMessages>& unit, const Group& group, const GcmKey& key,
                                       size_t end) {
    Vec tags[Unit<kVectors, kMessages>::kTagVectors];
    FinishTags(tags, unit, group, key);
    Repeat<kMessages>(KEYFOLD_STEP(m) {
      if (unit.position + m >= end) return;
      const GcmMessage& message = *group.messages[unit.position + m];
      StoreBlock(message.out + message.len, Vector::template Lane<m % kLanes>(tags[m / kLanes]));
    });
  }

  // SealTails seals whole messages, and hashes each unit while it encrypts the next.
  template <size_t kVectors, size_t kMessages>
  static KEYFOLD_NOINLINE void SealTails(const Group& group, const GcmKey& key, size_t position, size_t end) {
    constexpr size_t kCount = kVectors * kMessages;
    const Vec y = AadState(group);
    Unit<kVectors, kMessages> sealed;
    StartUnit(&sealed, group, key, position, end, 0);
    MiddleRounds(sealed.x, key, [](auto) {});
    FinishSeal(&sealed, group, key, end, 0);
    for (position += kMessages; position < end; position += kMessages) {
      Unit<kVectors, kMessages> unit;
      StartUnit(&unit, group, key, position, end, 0);
      MiddleRounds(unit.x, key, KEYFOLD_STEP(r) {
        if constexpr (r < kCount) HashStep<r>(&sealed, sealed.x, key, y);
        if constexpr (r == kCount) StoreTags(sealed, group, key, end);
      });
      FinishSeal(&unit, group, key, end, 0);
      sealed = unit;
    }
    Repeat<kCount>(KEYFOLD_STEP(i) { HashStep<i>(&sealed, sealed.x, key, y); });
    StoreTags(sealed, group, key, end);
  }

  // OpenUnit opens messages from their byte `offset` on, where GHASH's state is `y`. Plaintext stays in registers
  // until the tag of its message has matched.
  template <size_t kVectors, size_t kMessages>
  static KEYFOLD_INLINE void OpenUnit(const Group& group, const GcmKey& key, size_t position, size_t end,
                                      size_t offset, Vec y) {
    constexpr size_t kCount = kVectors * kMessages;
    const Vec last_key = RoundKey(key, kRounds);
    Unit<kVectors, kMessages> unit;
    Vec tags[Unit<kVectors, kMessages>::kTagVectors];
    StartUnit(&unit, group, key, position, end, offset);
    MiddleRounds(unit.x, key, KEYFOLD_STEP(r) {
      if constexpr (r < kCount) HashStep<r>(&unit, unit.in, key, y);
      if constexpr (r == kCount) FinishTags(tags, unit, group, key);
    });
    Repeat<kCount>(KEYFOLD_STEP(i) { unit.x[i] = LastRound(unit.x[i], unit.in[i], last_key); });
    Repeat<kMessages>(KEYFOLD_STEP(m) {
      if (position + m >= end) return;
      GcmMessage& message = *group.messages[position + m];
      const __m128i tag = Vector::template Lane<m % kLanes>(tags[m / kLanes]);
      const __m128i difference = _mm_xor_si128(tag, LoadBlock(message.in + message.len));
      message.ok = _mm_testz_si128(difference, difference) != 0;
      if (message.ok) {
        StoreTail<m>(unit, message, offset);
      } else if (message.len != 0) {
        std::memset(message.out, 0, message.len);
      }
    });
  }

  template <size_t kVectors, size_t kMessages>
  static KEYFOLD_NOINLINE void OpenTails(const Group& group, const GcmKey& key, size_t position, size_t end) {
    for (; position < end; position += kMessages) {
      OpenUnit<kVectors, kMessages>(group, key, position, end, 0, AadState(group));
    }
  }

  // --- Long messages ---

  static KEYFOLD_INLINE void NextStates(Vec (&x)[kBulkVectors], Vec* counters, const GcmKey& key) {
    Repeat<kBulkVectors>(KEYFOLD_STEP(i) {
      x[i] = FirstRound(*counters, key);
      *counters = Vector::AddWord3(*counters, Vector::Word3(kLanes));
    });
  }

  // HashBulkStep is a step in hashing the kBulkVectors vectors that load(i) gives; the last one updates `y`. The
  // first vector comes last, since it waits for the `y` of the bulk before.
  template <size_t kStep, class Load>
  static KEYFOLD_INLINE void HashBulkStep(Product* product, Vec* y, const GcmKey& key, Load load) {
    if constexpr (kStep == 0) *product = Zero();
    if constexpr (kStep < kBulkVectors) {
      constexpr size_t kVector = (kStep + 1) % kBulkVectors;
      Vec blocks = ReverseBlocks(load(std::integral_constant<size_t, kVector>{}));
      if constexpr (kVector == 0) blocks = Vector::Xor(blocks, *y);
      MultiplyAddPower(product, blocks, key, PowerOffset(kBulkBlocks) + kVector * kVectorBytes);
    }
    if constexpr (kStep == kBulkVectors) *y = SumToFirstLane(Reduce(*product));
  }

  static KEYFOLD_INLINE Vec SumToFirstLane(Vec x) {
    const Vec parts[1] = {x};
    Vec sum[1];
    Vector::SumLanes(sum, parts);
    return Vector::KeepFirstLane(sum[0]);
  }

  template <class Load>
  static KEYFOLD_INLINE void HashBulk(Vec* y, const GcmKey& key, Load load) {
    Product product;
    Repeat<kBulkVectors + 1>(KEYFOLD_STEP(i) { HashBulkStep<i>(&product, y, key, load); });
  }

  // SealLong hashes each bulk while it encrypts the next, and the last one while it encrypts the tail.
  template <size_t kVectors>
  static KEYFOLD_NOINLINE void SealLong(const Group& group, const GcmKey& key, size_t position) {
    const GcmMessage& message = *group.messages[position];
    const size_t offset = BulkBytesOf(message.len);
    const Vec last_key = RoundKey(key, kRounds);
    const uint8_t* in = message.in;
    uint8_t* out = message.out;
    Vec counters = Vector::WithIndex(CountersFrom(group, kFirstCounter), message.index);
    Vec y = AadState(group);
    Vec x[kBulkVectors];
    Product product;
    // The ciphertext just written: to hold it in registers would take those of the round keys.
    const auto load = KEYFOLD_STEP(i) { return Vector::Load(out - kBulkBytes + i * kVectorBytes); };
    const auto finish = KEYFOLD_STEP(i) {
      Vector::Store(out + i * kVectorBytes, LastRound(x[i], Vector::Load(in + i * kVectorBytes), last_key));
    };
    NextStates(x, &counters, key);
    MiddleRounds(x, key, [](auto) {});
    Repeat<kBulkVectors>(finish);
    for (size_t done = kBulkBytes; done < offset; done += kBulkBytes) {
      in += kBulkBytes;
      out += kBulkBytes;
      NextStates(x, &counters, key);
      MiddleRounds(x, key, KEYFOLD_STEP(r) { HashBulkStep<r>(&product, &y, key, load); });
      Repeat<kBulkVectors>(finish);
    }
    out += kBulkBytes;
    Unit<kVectors, 1> tail;
    StartUnit(&tail, group, key, position, position + 1, offset);
    MiddleRounds(tail.x, key, KEYFOLD_STEP(r) { HashBulkStep<r>(&product, &y, key, load); });
    FinishSeal(&tail, group, key, position + 1, offset);
    Repeat<kVectors>(KEYFOLD_STEP(i) { HashStep<i>(&tail, tail.x, key, y); });
    StoreTags(tail, group, key, position + 1);
  }

  // OpenLong writes the plaintext of bulks before the tag is known, and takes it back if the tag does not match: to
  // read a long message twice would cost almost half of the speed.
  template <size_t kVectors>
  static KEYFOLD_NOINLINE void OpenLong(const Group& group, const GcmKey& key, size_t position) {
    const GcmMessage& message = *group.messages[position];
    const size_t offset = BulkBytesOf(message.len);
    const Vec last_key = RoundKey(key, kRounds);
    const uint8_t* in = message.in;
    uint8_t* out = message.out;
    Vec counters = Vector::WithIndex(CountersFrom(group, kFirstCounter), message.index);
    Vec y = AadState(group);
    Vec x[kBulkVectors];
    Product product;
    const auto load = KEYFOLD_STEP(i) { return Vector::Load(in + i * kVectorBytes); };
    for (size_t done = 0; done < offset; done += kBulkBytes, in += kBulkBytes, out += kBulkBytes) {
      NextStates(x, &counters, key);
      MiddleRounds(x, key, KEYFOLD_STEP(r) { HashBulkStep<r>(&product, &y, key, load); });
      Repeat<kBulkVectors>(KEYFOLD_STEP(i) {
        Vector::Store(out + i * kVectorBytes, LastRound(x[i], load(i), last_key));
      });
    }
    OpenUnit<kVectors, 1>(group, key, position, position + 1, offset, y);
  }

  // BulkBytesOf leaves at least a byte for the tail.
  static KEYFOLD_INLINE size_t BulkBytesOf(size_t len) { return (len - 1) / kBulkBytes * kBulkBytes; }

  // --- The functions of AesGcm ---

  // By the number of vectors, less one.
  using TailsFunction = void (*)(const Group& group, const GcmKey& key, size_t position, size_t end);
  using LongFunction = void (*)(const Group& group, const GcmKey& key, size_t position);
  struct Functions {
    // For one message, and for any number.
    TailsFunction one[kBulkVectors];
    TailsFunction many[kBulkVectors];
    // For a message that ends with so many.
    LongFunction ending[kBulkVectors];
  };

  template <Operation kOperation, size_t... kIndices>
  static constexpr Functions FunctionsFor(std::index_sequence<kIndices...>) {
    if constexpr (kOperation == Operation::kSeal) {
      return {{SealTails<kIndices + 1, 1>...},
              {SealTails<kIndices + 1, TailsAtOnce(kIndices + 1)>...},
              {SealLong<kIndices + 1>...}};
    } else {
      return {{OpenTails<kIndices + 1, 1>...},
              {OpenTails<kIndices + 1, TailsAtOnce(kIndices + 1)>...},
              {OpenLong<kIndices + 1>...}};
    }
  }

  template <Operation kOperation>
  static KEYFOLD_INLINE void RunGroup(Group* group, GcmKey* key, GcmMessage* messages, uint64_t aad_len) {
    static constexpr Functions kFunctions = FunctionsFor<kOperation>(std::make_index_sequence<kBulkVectors>{});
    size_t len_min = messages[0].len;
    size_t len_max = len_min;
    for (size_t i = 1; i < group->num_messages; ++i) {
      if (messages[i].len < len_min) len_min = messages[i].len;
      if (messages[i].len > len_max) len_max = messages[i].len;
    }
    EnsurePowers(key, PowersFor(len_max));
    size_t counts[kClasses] = {};
    Arrange(group, messages, aad_len, len_min, len_max, counts);
    MakeMasks(group, *key);
    size_t position = 0;
    for (size_t c = 0; c < kLongClass; ++c) {
      const size_t end = position + counts[c];
      if (counts[c] == 1) {
        kFunctions.one[c](*group, *key, position, end);
      } else if (counts[c] != 0) {
        kFunctions.many[c](*group, *key, position, end);
      }
      position = end;
    }
    for (; position < group->num_messages; ++position) {
      const size_t len = group->messages[position]->len;
      kFunctions.ending[ClassOf(len - BulkBytesOf(len))](*group, *key, position);
    }
  }

  template <Operation kOperation>
  static void Run(GcmKey* key, const GcmAad& aad, const uint8_t nonce_prefix[8], GcmMessage* messages,
                  size_t num_messages) {
    Group group;
    std::memcpy(group.aad_state, aad.state, kAesBlockBytes);
    std::memcpy(group.nonce, nonce_prefix, 8);
    std::memset(group.nonce + 8, 0, 8);
    for (size_t done = 0; done < num_messages; done += group.num_messages) {
      group.num_messages = num_messages - done < kGcmGroup ? num_messages - done : kGcmGroup;
      RunGroup<kOperation>(&group, key, messages + done, aad.len);
    }
    // Masks were made for whole vectors.
    const size_t masks = (num_messages < kGcmGroup ? num_messages : kGcmGroup) + kLanes - 1;
    Wipe(group.masks, masks * kAesBlockBytes);
    Wipe(group.aad_state, kAesBlockBytes);
    WipeStack();
    Vector::WipeRegisters();
  }

  // WipeStack clears what the functions that RunGroup calls left below: they spill products of H and key stream, in
  // frames of less than 3 KiB.
  static KEYFOLD_NOINLINE void WipeStack() {
    alignas(64) uint8_t below[4096];
    Wipe(below, sizeof(below));
  }

  static void SealMany(GcmKey* key, const GcmAad& aad, const uint8_t nonce_prefix[8], GcmMessage* messages,
                       size_t num_messages) {
    Run<Operation::kSeal>(key, aad, nonce_prefix, messages, num_messages);
  }

  static void OpenMany(GcmKey* key, const GcmAad& aad, const uint8_t nonce_prefix[8], GcmMessage* messages,
                       size_t num_messages) {
    Run<Operation::kOpen>(key, aad, nonce_prefix, messages, num_messages);
  }

  static void Init(GcmKey* out, const uint8_t key[32], size_t message_bytes_hint) {
    ExpandKey(&out->aes, key);
    alignas(16) uint8_t block[kAesBlockBytes] = {};
    EncryptBlocksOnce<1>(block, out->aes, block);
    // H·x: a shift to the left that carries between the halves and reduces, without a branch on the top bit.
    __m128i h = ReverseBytes(LoadBlock(block));
    const __m128i carries = _mm_srai_epi32(_mm_shuffle_epi32(h, 0xd3), 31);
    const __m128i polynomial = _mm_set_epi64x(static_cast<int64_t>(0xc200000000000000), 0x0000000000000001);
    const __m128i carry_bits = _mm_or_si128(polynomial, _mm_set_epi32(0, 1, 0, 0));
    h = _mm_xor_si128(_mm_add_epi64(h, h), _mm_and_si128(carries, carry_bits));
    Vector::Store(out->h_powers + PowerOffset(0), Vector::Zero());
    Vector::Store(out->h_sums + PowerOffset(0), Vector::Zero());
    StorePowers(out, kLanes, Vector::FirstPowers(h));
    out->num_powers = kLanes;
    EnsurePowers(out, PowersFor(message_bytes_hint));
    Wipe(block, sizeof(block));
    Vector::WipeRegisters();
  }

  static void HashAad(GcmAad* out, GcmKey* key, const uint8_t* aad, size_t aad_len) {
    EnsurePowers(key, PowersFor(aad_len));
    out->len = aad_len;
    Vec y = Vector::Zero();
    for (; aad_len > kBulkBytes; aad += kBulkBytes, aad_len -= kBulkBytes) {
      HashBulk(&y, *key, KEYFOLD_STEP(i) { return Vector::Load(aad + i * kVectorBytes); });
    }
    Product product = Zero();
    for (size_t power = BlocksIn(aad_len); aad_len != 0; power -= kLanes) {
      const size_t len = aad_len < kVectorBytes ? aad_len : kVectorBytes;
      const Vec blocks = Vector::Xor(ReverseBlocks(Vector::LoadPartial(aad, len)), y);
      MultiplyAddPower(&product, blocks, *key, PowerOffset(power));
      y = Vector::Zero();
      aad += len;
      aad_len -= len;
    }
    StoreBlock(out->state, Vector::template Lane<0>(SumToFirstLane(Reduce(product))));
    Vector::WipeRegisters();
  }

  static void Expand(AesKey* out, const uint8_t key[32]) {
    ExpandKey(out, key);
    Vector::WipeRegisters();
  }

  static void Encrypt(uint8_t* out, const AesKey& key, const uint8_t* in, size_t num_blocks) {
    EncryptBlocks(out, key, in, num_blocks);
    Vector::WipeRegisters();
  }

  static constexpr AesGcm kFunctions = {Expand, Encrypt, Init, HashAad, SealMany, OpenMany};
};

}  // namespace
}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_AES_GCM_KERNEL_H_
