// AES-256-GCM with VAES, VPCLMULQDQ and AVX-512: four blocks in each instruction.

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
#pragma clang attribute push(__attribute__((target("aes,pclmul,avx512f,avx512dq,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2"))), apply_to = function)
#else
// GCC 12 takes the operand that its own shuffles leave undefined for a mistake (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("aes,pclmul,avx512f,avx512dq,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")
#endif

#include "aes_gcm_kernel.h"

namespace keyfold {
namespace {

struct Vector512 {
  using Vec = __m512i;
  static constexpr size_t kLanes = 4;

  static KEYFOLD_INLINE Vec Zero() { return _mm512_setzero_si512(); }
  static KEYFOLD_INLINE Vec Load(const uint8_t* in) { return _mm512_loadu_si512(in); }
  static KEYFOLD_INLINE void Store(uint8_t* out, Vec x) { _mm512_storeu_si512(out, x); }
  static KEYFOLD_INLINE __mmask64 FirstBytes(size_t len) {
    return _bzhi_u64(~uint64_t{0}, static_cast<uint32_t>(len));
  }
  static KEYFOLD_INLINE Vec LoadPartial(const uint8_t* in, size_t len) {
    return _mm512_maskz_loadu_epi8(FirstBytes(len), in);
  }
  static KEYFOLD_INLINE void StorePartial(uint8_t* out, Vec x, size_t len) {
    _mm512_mask_storeu_epi8(out, FirstBytes(len), x);
  }
  static KEYFOLD_INLINE Vec KeepBytes(Vec x, size_t len) { return _mm512_maskz_mov_epi8(FirstBytes(len), x); }
  static KEYFOLD_INLINE Vec Broadcast(__m128i block) { return _mm512_broadcast_i32x4(block); }
  static KEYFOLD_INLINE Vec FirstLane(__m128i block) { return _mm512_zextsi128_si512(block); }
  static KEYFOLD_INLINE Vec KeepFirstLane(Vec x) { return _mm512_maskz_mov_epi64(0x03, x); }
  template <int kLane>
  static KEYFOLD_INLINE __m128i Lane(Vec x) {
    return _mm512_extracti32x4_epi32(x, kLane);
  }

  static KEYFOLD_INLINE Vec Xor(Vec a, Vec b) { return _mm512_xor_si512(a, b); }
  static KEYFOLD_INLINE Vec Xor3(Vec a, Vec b, Vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
  static KEYFOLD_INLINE void Pin(Vec* x) { __asm__("" : "+v"(*x)); }
  static KEYFOLD_INLINE Vec SwapHalves(Vec x) { return _mm512_shuffle_epi32(x, _MM_PERM_BADC); }
  static KEYFOLD_INLINE Vec ShuffleBytes(Vec x, Vec order) { return _mm512_shuffle_epi8(x, order); }
  static KEYFOLD_INLINE Vec AesRound(Vec x, Vec key) { return _mm512_aesenc_epi128(x, key); }
  static KEYFOLD_INLINE Vec AesLastRound(Vec x, Vec key) { return _mm512_aesenclast_epi128(x, key); }
  template <int kHalves>
  static KEYFOLD_INLINE Vec Multiply(Vec a, Vec b) {
    return _mm512_clmulepi64_epi128(a, b, kHalves);
  }

  // The last word of each lane, and the same one more in each lane than in the lane before.
  static KEYFOLD_INLINE Vec Word3(uint32_t word) {
    return _mm512_maskz_set1_epi32(0x8888, static_cast<int>(word));
  }
  static KEYFOLD_INLINE Vec LaneWord3(uint32_t word) {
    return _mm512_add_epi32(Word3(word), _mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0));
  }
  static KEYFOLD_INLINE Vec AddWord3(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
  // The third word of each lane: one index in all, and one in each.
  static KEYFOLD_INLINE Vec WithIndex(Vec counters, uint32_t index) {
    return _mm512_mask_set1_epi32(counters, 0x4444, static_cast<int>(index));
  }
  static KEYFOLD_INLINE Vec WithIndices(__m128i nonce, const uint32_t* indices) {
    return _mm512_or_si512(Broadcast(nonce), _mm512_maskz_expandloadu_epi32(0x4444, indices));
  }

  // SumLanes: lane i of `out` is the sum of the lanes of in[i].
  static KEYFOLD_INLINE void SumLanes(Vec (&out)[1], const Vec (&in)[1]) {
    const Vec pairs = Xor(in[0], _mm512_shuffle_i32x4(in[0], in[0], 0x4e));
    out[0] = Xor(pairs, _mm512_shuffle_i32x4(pairs, pairs, 0xb1));
  }
  static KEYFOLD_INLINE void SumLanes(Vec (&out)[1], const Vec (&in)[2]) {
    const Vec pairs = SumPairs(in[0], in[1]);
    out[0] = SumPairsOfPairs(pairs, pairs);
  }
  static KEYFOLD_INLINE void SumLanes(Vec (&out)[1], const Vec (&in)[4]) {
    out[0] = SumPairsOfPairs(SumPairs(in[0], in[1]), SumPairs(in[2], in[3]));
  }
  static KEYFOLD_INLINE void SumLanes(Vec (&out)[2], const Vec (&in)[8]) {
    out[0] = SumPairsOfPairs(SumPairs(in[0], in[1]), SumPairs(in[2], in[3]));
    out[1] = SumPairsOfPairs(SumPairs(in[4], in[5]), SumPairs(in[6], in[7]));
  }

  // FirstPowers are H^4, H^3, H^2, H.
  static Vec FirstPowers(__m128i h);

  // VZEROALL leaves the upper sixteen registers as they are.
  static KEYFOLD_INLINE void WipeRegisters() {
    __asm__ volatile(
        "vzeroall\n"
        "vpxorq %%zmm16, %%zmm16, %%zmm16\n vpxorq %%zmm17, %%zmm17, %%zmm17\n"
        "vpxorq %%zmm18, %%zmm18, %%zmm18\n vpxorq %%zmm19, %%zmm19, %%zmm19\n"
        "vpxorq %%zmm20, %%zmm20, %%zmm20\n vpxorq %%zmm21, %%zmm21, %%zmm21\n"
        "vpxorq %%zmm22, %%zmm22, %%zmm22\n vpxorq %%zmm23, %%zmm23, %%zmm23\n"
        "vpxorq %%zmm24, %%zmm24, %%zmm24\n vpxorq %%zmm25, %%zmm25, %%zmm25\n"
        "vpxorq %%zmm26, %%zmm26, %%zmm26\n vpxorq %%zmm27, %%zmm27, %%zmm27\n"
        "vpxorq %%zmm28, %%zmm28, %%zmm28\n vpxorq %%zmm29, %%zmm29, %%zmm29\n"
        "vpxorq %%zmm30, %%zmm30, %%zmm30\n vpxorq %%zmm31, %%zmm31, %%zmm31\n" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
              "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
              "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
  }

 private:
  // a0+a2, a1+a3, b0+b2, b1+b3.
  static KEYFOLD_INLINE Vec SumPairs(Vec a, Vec b) {
    return Xor(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
  }
  static KEYFOLD_INLINE Vec SumPairsOfPairs(Vec ab, Vec cd) {
    return Xor(_mm512_shuffle_i32x4(ab, cd, 0x88), _mm512_shuffle_i32x4(ab, cd, 0xdd));
  }
};

Vector512::Vec Vector512::FirstPowers(__m128i h) {
  const Vec h1 = Broadcast(h);
  const Vec h2 = Kernel<Vector512>::Multiply(h1, h1);
  // H^2 in the even lanes and H in the odd ones; then H^4 and H^3.
  const Vec h2_h1 = _mm512_mask_blend_epi64(0x33, h1, h2);
  const Vec h4_h3 = Kernel<Vector512>::Multiply(h2_h1, h2);
  return _mm512_mask_blend_epi64(0x0f, h2_h1, h4_h3);
}

}  // namespace

const AesGcm kAesGcmVaes = Kernel<Vector512>::kFunctions;

}  // namespace keyfold

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // defined(__x86_64__)
