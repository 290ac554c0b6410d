// AES-256-GCM with AES-NI and PCLMULQDQ: one block in each instruction.

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "aes_gcm.h"
#include "aes_gcm_internal.h"
#include "wipe.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("aes,pclmul,ssse3,sse4.1"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("aes,pclmul,ssse3,sse4.1")
#endif

#include "aes_gcm_kernel.h"

namespace keyfold {
namespace {

// Words of any alignment, as the processor stores them.
template <class Word>
KEYFOLD_INLINE uint64_t LoadWord(const uint8_t* in) {
  Word word;
  std::memcpy(&word, in, sizeof(word));
  return word;
}

template <class Word>
KEYFOLD_INLINE void StoreWord(uint8_t* out, uint64_t value) {
  const Word word = static_cast<Word>(value);
  std::memcpy(out, &word, sizeof(word));
}

// The words at both ends overlap in the middle, where they agree.
KEYFOLD_INLINE uint64_t LoadUpTo8(const uint8_t* in, size_t len) {
  if (len >= 4) return LoadWord<uint32_t>(in) | (LoadWord<uint32_t>(in + len - 4) << (8 * (len - 4)));
  if (len == 0) return 0;
  return in[0] | (static_cast<uint64_t>(in[len / 2]) << (8 * (len / 2))) |
         (static_cast<uint64_t>(in[len - 1]) << (8 * (len - 1)));
}

KEYFOLD_INLINE void StoreUpTo8(uint8_t* out, uint64_t value, size_t len) {
  if (len >= 4) {
    StoreWord<uint32_t>(out, value);
    StoreWord<uint32_t>(out + len - 4, value >> (8 * (len - 4)));
  } else if (len >= 2) {
    StoreWord<uint16_t>(out, value);
    StoreWord<uint16_t>(out + len - 2, value >> (8 * (len - 2)));
  } else if (len == 1) {
    out[0] = static_cast<uint8_t>(value);
  }
}

// Its last sixteen bytes but len are ones, then zeros.
alignas(32) constexpr uint8_t kOnesThenZeros[32] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

struct Vector128 {
  using Vec = __m128i;
  static constexpr size_t kLanes = 1;

  static KEYFOLD_INLINE Vec Zero() { return _mm_setzero_si128(); }
  static KEYFOLD_INLINE Vec Load(const uint8_t* in) { return LoadBlock(in); }
  static KEYFOLD_INLINE void Store(uint8_t* out, Vec x) { StoreBlock(out, x); }
  static KEYFOLD_INLINE Vec LoadPartial(const uint8_t* in, size_t len) {
    if (len == kAesBlockBytes) return LoadBlock(in);
    if (len < 8) return _mm_set_epi64x(0, static_cast<int64_t>(LoadUpTo8(in, len)));
    return _mm_set_epi64x(static_cast<int64_t>(LoadUpTo8(in + 8, len - 8)),
                          static_cast<int64_t>(LoadWord<uint64_t>(in)));
  }
  static KEYFOLD_INLINE void StorePartial(uint8_t* out, Vec x, size_t len) {
    if (len == kAesBlockBytes) return StoreBlock(out, x);
    const uint64_t low = static_cast<uint64_t>(_mm_cvtsi128_si64(x));
    if (len < 8) return StoreUpTo8(out, low, len);
    StoreWord<uint64_t>(out, low);
    StoreUpTo8(out + 8, static_cast<uint64_t>(_mm_extract_epi64(x, 1)), len - 8);
  }
  static KEYFOLD_INLINE Vec KeepBytes(Vec x, size_t len) {
    return _mm_and_si128(x, LoadBlock(kOnesThenZeros + kAesBlockBytes - len));
  }
  static KEYFOLD_INLINE Vec Broadcast(__m128i block) { return block; }
  static KEYFOLD_INLINE Vec FirstLane(__m128i block) { return block; }
  static KEYFOLD_INLINE Vec KeepFirstLane(Vec x) { return x; }
  template <int kLane>
  static KEYFOLD_INLINE __m128i Lane(Vec x) {
    static_assert(kLane == 0);
    return x;
  }

  static KEYFOLD_INLINE Vec Xor(Vec a, Vec b) { return _mm_xor_si128(a, b); }
  static KEYFOLD_INLINE Vec Xor3(Vec a, Vec b, Vec c) { return _mm_xor_si128(_mm_xor_si128(a, b), c); }
  static KEYFOLD_INLINE void Pin(Vec* x) { __asm__("" : "+x"(*x)); }
  static KEYFOLD_INLINE Vec SwapHalves(Vec x) { return _mm_shuffle_epi32(x, 0x4e); }
  static KEYFOLD_INLINE Vec ShuffleBytes(Vec x, Vec order) { return _mm_shuffle_epi8(x, order); }
  static KEYFOLD_INLINE Vec AesRound(Vec x, Vec key) { return _mm_aesenc_si128(x, key); }
  static KEYFOLD_INLINE Vec AesLastRound(Vec x, Vec key) { return _mm_aesenclast_si128(x, key); }
  template <int kHalves>
  static KEYFOLD_INLINE Vec Multiply(Vec a, Vec b) {
    return _mm_clmulepi64_si128(a, b, kHalves);
  }

  static KEYFOLD_INLINE Vec Word3(uint32_t word) { return _mm_set_epi32(static_cast<int>(word), 0, 0, 0); }
  static KEYFOLD_INLINE Vec LaneWord3(uint32_t word) { return Word3(word); }
  static KEYFOLD_INLINE Vec AddWord3(Vec a, Vec b) { return _mm_add_epi32(a, b); }
  static KEYFOLD_INLINE Vec WithIndex(Vec counters, uint32_t index) {
    return _mm_insert_epi32(counters, static_cast<int>(index), 2);
  }
  static KEYFOLD_INLINE Vec WithIndices(__m128i nonce, const uint32_t* indices) {
    return _mm_insert_epi32(nonce, static_cast<int>(indices[0]), 2);
  }

  template <size_t kCount>
  static KEYFOLD_INLINE void SumLanes(Vec (&out)[kCount], const Vec (&in)[kCount]) {
    Repeat<kCount>(KEYFOLD_STEP(i) { out[i] = in[i]; });
  }

  static KEYFOLD_INLINE Vec FirstPowers(__m128i h) { return h; }

  static KEYFOLD_INLINE void WipeRegisters() {
    __asm__ volatile(
        "pxor %%xmm0, %%xmm0\n pxor %%xmm1, %%xmm1\n pxor %%xmm2, %%xmm2\n pxor %%xmm3, %%xmm3\n"
        "pxor %%xmm4, %%xmm4\n pxor %%xmm5, %%xmm5\n pxor %%xmm6, %%xmm6\n pxor %%xmm7, %%xmm7\n"
        "pxor %%xmm8, %%xmm8\n pxor %%xmm9, %%xmm9\n pxor %%xmm10, %%xmm10\n pxor %%xmm11, %%xmm11\n"
        "pxor %%xmm12, %%xmm12\n pxor %%xmm13, %%xmm13\n pxor %%xmm14, %%xmm14\n pxor %%xmm15, %%xmm15\n" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
              "xmm12", "xmm13", "xmm14", "xmm15");
  }
};

}  // namespace

const AesGcm kAesGcmAesni = Kernel<Vector128>::kFunctions;

}  // namespace keyfold

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)
