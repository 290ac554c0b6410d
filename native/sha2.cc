// SHA-256, SHA-512 (FIPS 180-4), HMAC (RFC 2104) and HKDF (RFC 5869). SHA-256 uses the SHA extensions where the
// processor has them: it runs once for each request, SHA-512 once for each message key.

#include "sha2.h"

#include <cstring>

#include "wipe.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace keyfold {
namespace {

constexpr size_t kSha256BlockBytes = 64;
constexpr size_t kSha512BlockBytes = 128;
constexpr size_t kSha512Bytes = 64;

alignas(64) constexpr uint32_t kSha256Constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr uint64_t kSha512Constants[80] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc, 0x3956c25bf348b538,
    0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118, 0xd807aa98a3030242, 0x12835b0145706fbe,
    0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2, 0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235,
    0xc19bf174cf692694, 0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5, 0x983e5152ee66dfab,
    0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4, 0xc6e00bf33da88fc2, 0xd5a79147930aa725,
    0x06ca6351e003826f, 0x142929670a0e6e70, 0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed,
    0x53380d139d95b3df, 0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30, 0xd192e819d6ef5218,
    0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8, 0x19a4c116b8d2d0c8, 0x1e376c085141ab53,
    0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8, 0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373,
    0x682e6ff3d6b2b8a3, 0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b, 0xca273eceea26619c,
    0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178, 0x06f067aa72176fba, 0x0a637dc5a2c898a6,
    0x113f9804bef90dae, 0x1b710b35131c471b, 0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc,
    0x431d67c49c100d4c, 0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817};

uint32_t RotateRight(uint32_t x, int bits) { return (x >> bits) | (x << (32 - bits)); }
uint64_t RotateRight(uint64_t x, int bits) { return (x >> bits) | (x << (64 - bits)); }

template <class Word>
Word LoadBigEndian(const uint8_t* in) {
  Word word = 0;
  for (size_t i = 0; i < sizeof(Word); ++i) word = static_cast<Word>((word << 8) | in[i]);
  return word;
}

template <class Word>
void StoreBigEndian(uint8_t* out, Word word) {
  for (size_t i = 0; i < sizeof(Word); ++i) out[i] = static_cast<uint8_t>(word >> (8 * (sizeof(Word) - 1 - i)));
}

// The functions of FIPS 180-4 §4.1 and its constants, for both sizes of word.
struct Sha256Functions {
  using Word = uint32_t;
  static constexpr size_t kRounds = 64;
  static constexpr const uint32_t* kConstants = kSha256Constants;
  static Word BigSigma0(Word x) { return RotateRight(x, 2) ^ RotateRight(x, 13) ^ RotateRight(x, 22); }
  static Word BigSigma1(Word x) { return RotateRight(x, 6) ^ RotateRight(x, 11) ^ RotateRight(x, 25); }
  static Word SmallSigma0(Word x) { return RotateRight(x, 7) ^ RotateRight(x, 18) ^ (x >> 3); }
  static Word SmallSigma1(Word x) { return RotateRight(x, 17) ^ RotateRight(x, 19) ^ (x >> 10); }
};

struct Sha512Functions {
  using Word = uint64_t;
  static constexpr size_t kRounds = 80;
  static constexpr const uint64_t* kConstants = kSha512Constants;
  static Word BigSigma0(Word x) { return RotateRight(x, 28) ^ RotateRight(x, 34) ^ RotateRight(x, 39); }
  static Word BigSigma1(Word x) { return RotateRight(x, 14) ^ RotateRight(x, 18) ^ RotateRight(x, 41); }
  static Word SmallSigma0(Word x) { return RotateRight(x, 1) ^ RotateRight(x, 8) ^ (x >> 7); }
  static Word SmallSigma1(Word x) { return RotateRight(x, 19) ^ RotateRight(x, 61) ^ (x >> 6); }
};

// RoundOf is one round: t1 = h + Σ1(e) + Ch(e, f, g) + K + W; d += t1; h = t1 + Σ0(a) + Maj(a, b, c).
template <class Functions, class Word = typename Functions::Word>
inline void RoundOf(Word a, Word b, Word c, Word* d, Word e, Word f, Word g, Word* h, Word constant_and_word) {
  const Word t1 = *h + Functions::BigSigma1(e) + ((e & f) ^ (~e & g)) + constant_and_word;
  *d += t1;
  *h = t1 + Functions::BigSigma0(a) + ((a & b) ^ (a & c) ^ (b & c));
}

// CompressPortable runs the rounds of one block, with a schedule of the last sixteen words only. Instead of moving
// the eight words of state, each round names them one further; after eight rounds the names are the first again.
template <class Functions>
void CompressPortable(typename Functions::Word state[8], const uint8_t* block) {
  using Word = typename Functions::Word;
  Word w[16];
  for (size_t i = 0; i < 16; ++i) w[i] = LoadBigEndian<Word>(block + sizeof(Word) * i);
  Word a = state[0], b = state[1], c = state[2], d = state[3];
  Word e = state[4], f = state[5], g = state[6], h = state[7];
  for (size_t round = 0; round < Functions::kRounds; round += 8) {
    const auto next = [&w, round](size_t i) {
      Word& word = w[(round + i) % 16];
      if (round >= 16) {
        word += Functions::SmallSigma1(w[(round + i + 14) % 16]) + w[(round + i + 9) % 16] +
                Functions::SmallSigma0(w[(round + i + 1) % 16]);
      }
      return Functions::kConstants[round + i] + word;
    };
    RoundOf<Functions>(a, b, c, &d, e, f, g, &h, next(0));
    RoundOf<Functions>(h, a, b, &c, d, e, f, &g, next(1));
    RoundOf<Functions>(g, h, a, &b, c, d, e, &f, next(2));
    RoundOf<Functions>(f, g, h, &a, b, c, d, &e, next(3));
    RoundOf<Functions>(e, f, g, &h, a, b, c, &d, next(4));
    RoundOf<Functions>(d, e, f, &g, h, a, b, &c, next(5));
    RoundOf<Functions>(c, d, e, &f, g, h, a, &b, next(6));
    RoundOf<Functions>(b, c, d, &e, f, g, h, &a, next(7));
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
  Wipe(w, sizeof(w));
}

#if defined(__x86_64__)

bool HasShaExtensions() {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
  if ((ecx & (bit_SSSE3 | bit_SSE4_1)) != (bit_SSSE3 | bit_SSE4_1)) return false;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx & bit_SHA) != 0;
}

// CompressShaExtensions: SHA256RNDS2 runs two rounds on the state held as ABEF and CDGH.
__attribute__((target("sha,ssse3,sse4.1"))) void CompressShaExtensions(uint32_t state[8], const uint8_t* in,
                                                                       size_t num_blocks) {
  const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  __m128i* const halves = reinterpret_cast<__m128i*>(state);
  const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(halves), 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(halves + 1), 0x1b);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
  for (; num_blocks != 0; --num_blocks, in += kSha256BlockBytes) {
    const __m128i abef_before = abef;
    const __m128i cdgh_before = cdgh;
    // Four words of the schedule in each; w[0] are the next.
    __m128i w[4];
    for (int i = 0; i < 4; ++i) {
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in) + i), big_endian);
    }
    for (int four = 0; four < 16; ++four) {
      const __m128i constants = _mm_load_si128(reinterpret_cast<const __m128i*>(kSha256Constants) + four);
      const __m128i words = _mm_add_epi32(w[0], constants);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, words);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(words, 0x0e));
      const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[0], w[1]), _mm_alignr_epi8(w[3], w[2], 4));
      w[0] = w[1];
      w[1] = w[2];
      w[2] = w[3];
      w[3] = _mm_sha256msg2_epu32(sum, w[3]);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(halves, _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(halves + 1, _mm_alignr_epi8(dchg, feba, 8));
}

#endif

void Compress(uint32_t state[8], const uint8_t* in, size_t num_blocks) {
#if defined(__x86_64__)
  static const bool has_sha_extensions = HasShaExtensions();
  if (has_sha_extensions) return CompressShaExtensions(state, in, num_blocks);
#endif
  for (; num_blocks != 0; --num_blocks, in += kSha256BlockBytes) CompressPortable<Sha256Functions>(state, in);
}

void Compress(uint64_t state[8], const uint8_t* in, size_t num_blocks) {
  for (; num_blocks != 0; --num_blocks, in += kSha512BlockBytes) CompressPortable<Sha512Functions>(state, in);
}

// Update and Final serve both sizes: their structs differ in the width of words only.
template <class Hash>
void Update(Hash* hash, const uint8_t* in, size_t len) {
  constexpr size_t kBlockBytes = sizeof(hash->block);
  const size_t held = hash->len % kBlockBytes;
  hash->len += len;
  if (held != 0) {
    const size_t taken = len < kBlockBytes - held ? len : kBlockBytes - held;
    if (taken != 0) std::memcpy(hash->block + held, in, taken);
    if (held + taken < kBlockBytes) return;
    Compress(hash->state, hash->block, 1);
    in += taken;
    len -= taken;
  }
  const size_t blocks = len / kBlockBytes;
  if (blocks != 0) Compress(hash->state, in, blocks);
  const size_t rest = len % kBlockBytes;
  if (rest != 0) std::memcpy(hash->block, in + len - rest, rest);
}

template <class Hash>
void Final(uint8_t* out, Hash* hash) {
  constexpr size_t kBlockBytes = sizeof(hash->block);
  // The length takes two words; only its low 64 bits can be other than zero.
  constexpr size_t kLengthAt = kBlockBytes - 2 * sizeof(hash->state[0]);
  size_t held = hash->len % kBlockBytes;
  hash->block[held++] = 0x80;
  if (held > kLengthAt) {
    std::memset(hash->block + held, 0, kBlockBytes - held);
    Compress(hash->state, hash->block, 1);
    held = 0;
  }
  std::memset(hash->block + held, 0, kBlockBytes - held);
  StoreBigEndian<uint64_t>(hash->block + kBlockBytes - 8, hash->len * 8);
  Compress(hash->state, hash->block, 1);
  for (size_t i = 0; i < 8; ++i) StoreBigEndian(out + sizeof(hash->state[0]) * i, hash->state[i]);
  Wipe(hash, sizeof(*hash));
}

// HmacInit starts HMAC-SHA-512: the inner hash takes the message, HmacFinal closes both.
void HmacInit(HkdfScratch* scratch, const uint8_t* key, size_t key_len) {
  uint8_t* const pad = scratch->pad;
  if (key_len > kSha512BlockBytes) {
    Sha512Init(&scratch->inner);
    Sha512Update(&scratch->inner, key, key_len);
    Sha512Final(pad, &scratch->inner);
    key_len = kSha512Bytes;
  } else if (key_len != 0) {
    std::memcpy(pad, key, key_len);
  }
  std::memset(pad + key_len, 0, kSha512BlockBytes - key_len);
  for (size_t i = 0; i < kSha512BlockBytes; ++i) pad[i] = static_cast<uint8_t>(pad[i] ^ 0x36);
  Sha512Init(&scratch->inner);
  Sha512Update(&scratch->inner, pad, kSha512BlockBytes);
  for (size_t i = 0; i < kSha512BlockBytes; ++i) pad[i] = static_cast<uint8_t>(pad[i] ^ 0x36 ^ 0x5c);
  Sha512Init(&scratch->outer);
  Sha512Update(&scratch->outer, pad, kSha512BlockBytes);
}

void HmacFinal(uint8_t out[64], HkdfScratch* scratch) {
  Sha512Final(scratch->t, &scratch->inner);
  Sha512Update(&scratch->outer, scratch->t, kSha512Bytes);
  Sha512Final(out, &scratch->outer);
}

}  // namespace

void Sha256Init(Sha256* hash) {
  constexpr uint32_t kInitial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::memcpy(hash->state, kInitial, sizeof(kInitial));
  hash->len = 0;
}

void Sha256Update(Sha256* hash, const uint8_t* in, size_t len) { Update(hash, in, len); }

void Sha256Final(uint8_t out[32], Sha256* hash) { Final(out, hash); }

void Sha512Init(Sha512* hash) {
  constexpr uint64_t kInitial[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
  std::memcpy(hash->state, kInitial, sizeof(kInitial));
  hash->len = 0;
}

void Sha512Update(Sha512* hash, const uint8_t* in, size_t len) { Update(hash, in, len); }

void Sha512Final(uint8_t out[64], Sha512* hash) { Final(out, hash); }

void HkdfExtract(uint8_t prk[64], const uint8_t* salt, size_t salt_len, const uint8_t* ikm, size_t ikm_len,
                 HkdfScratch* scratch) {
  // A key of no bytes is padded to the same block as 64 zeros.
  HmacInit(scratch, salt, salt_len);
  Sha512Update(&scratch->inner, ikm, ikm_len);
  HmacFinal(prk, scratch);
}

bool HkdfExpand(uint8_t* out, size_t out_len, const uint8_t prk[64], const uint8_t* info, size_t info_len,
                HkdfScratch* scratch) {
  if (out_len > 255 * kSha512Bytes) return false;
  for (uint8_t counter = 1; out_len != 0; ++counter) {
    // T(i - 1) is still in scratch->t, where HmacInit does not reach and HmacFinal overwrites it.
    HmacInit(scratch, prk, kSha512Bytes);
    if (counter > 1) Sha512Update(&scratch->inner, scratch->t, kSha512Bytes);
    Sha512Update(&scratch->inner, info, info_len);
    Sha512Update(&scratch->inner, &counter, 1);
    HmacFinal(scratch->t, scratch);
    const size_t taken = out_len < kSha512Bytes ? out_len : kSha512Bytes;
    std::memcpy(out, scratch->t, taken);
    out += taken;
    out_len -= taken;
  }
  return true;
}

}  // namespace keyfold
