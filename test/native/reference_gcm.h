// AES-256-GCM straight from FIPS 197 and NIST SP 800-38D, bit by bit: slow, short, and nothing in common with the
// kernels that are tested against it.

#ifndef KEYFOLD_TEST_NATIVE_REFERENCE_GCM_H_
#define KEYFOLD_TEST_NATIVE_REFERENCE_GCM_H_

#include <array>
#include <cstring>

#include "check.h"

namespace keyfold {

using Block = std::array<uint8_t, 16>;

class ReferenceGcm {
 public:
  explicit ReferenceGcm(const uint8_t key[32]) {
    MakeSubstitution();
    ExpandKey(key);
    h_ = Encrypt({});
    // GHASH is linear: the product of h_ with a block is the sum of these for the block's bits.
    Block shifted = h_;
    for (auto& multiple : multiples_) {
      multiple = shifted;
      const bool carry = (shifted[15] & 1) != 0;
      for (size_t i = 15; i > 0; --i) shifted[i] = static_cast<uint8_t>((shifted[i] >> 1) | (shifted[i - 1] << 7));
      shifted[0] = static_cast<uint8_t>((shifted[0] >> 1) ^ (carry ? 0xe1 : 0));
    }
  }

  // Seal returns ciphertext and tag.
  Bytes Seal(const Bytes& nonce, const Bytes& aad, const Bytes& plaintext) const {
    CHECK(nonce.size() == 12);
    Bytes out = plaintext;
    for (size_t at = 0; at < out.size(); at += 16) {
      const Block key_stream = Encrypt(Counter(nonce, static_cast<uint32_t>(at / 16 + 2)));
      for (size_t i = 0; i < 16 && at + i < out.size(); ++i) out[at + i] ^= key_stream[i];
    }
    Block y = {};
    Hash(&y, aad);
    Hash(&y, out);
    Bytes lengths(16);
    for (size_t i = 0; i < 8; ++i) {
      lengths[7 - i] = static_cast<uint8_t>(static_cast<uint64_t>(aad.size()) * 8 >> (8 * i));
      lengths[15 - i] = static_cast<uint8_t>(static_cast<uint64_t>(out.size()) * 8 >> (8 * i));
    }
    Hash(&y, lengths);
    const Block mask = Encrypt(Counter(nonce, 1));
    for (size_t i = 0; i < 16; ++i) out.push_back(static_cast<uint8_t>(y[i] ^ mask[i]));
    return out;
  }

  Block Encrypt(Block state) const {
    AddKey(&state, 0);
    for (size_t round = 1; round <= 14; ++round) {
      Block shifted;
      for (size_t i = 0; i < 16; ++i) shifted[i] = substitution_[state[(i + 4 * (i % 4)) % 16]];
      state = shifted;
      for (size_t column = 0; round < 14 && column < 16; column += 4) {
        for (size_t i = 0; i < 4; ++i) {
          state[column + i] = static_cast<uint8_t>(
              Double(shifted[column + i]) ^ Double(shifted[column + (i + 1) % 4]) ^ shifted[column + (i + 1) % 4] ^
              shifted[column + (i + 2) % 4] ^ shifted[column + (i + 3) % 4]);
        }
      }
      AddKey(&state, round);
    }
    return state;
  }

 private:
  static uint8_t Double(uint8_t x) { return static_cast<uint8_t>((x << 1) ^ ((x >> 7) * 0x1b)); }

  static uint8_t Times(uint8_t a, uint8_t b) {
    uint8_t product = 0;
    for (; b != 0; b = static_cast<uint8_t>(b >> 1), a = Double(a)) {
      if ((b & 1) != 0) product = static_cast<uint8_t>(product ^ a);
    }
    return product;
  }

  static Block Counter(const Bytes& nonce, uint32_t counter) {
    Block block;
    std::memcpy(block.data(), nonce.data(), 12);
    for (size_t i = 0; i < 4; ++i) block[15 - i] = static_cast<uint8_t>(counter >> (8 * i));
    return block;
  }

  void MakeSubstitution() {
    for (size_t x = 0; x < 256; ++x) {
      uint8_t inverse = 1;
      for (int i = 0; i < 254; ++i) inverse = Times(inverse, static_cast<uint8_t>(x));
      const uint32_t twice = inverse * 0x101u;
      substitution_[x] = static_cast<uint8_t>(
          (twice ^ (twice >> 4) ^ (twice >> 5) ^ (twice >> 6) ^ (twice >> 7) ^ 0x63) & 0xff);
    }
  }

  void ExpandKey(const uint8_t key[32]) {
    std::memcpy(round_keys_.data(), key, 32);
    uint8_t rcon = 1;
    for (size_t at = 32; at < round_keys_.size(); at += 4) {
      uint8_t word[4];
      std::memcpy(word, &round_keys_[at - 4], 4);
      if (at % 16 == 0) {
        const bool rotate = at % 32 == 0;
        uint8_t substituted[4];
        for (size_t i = 0; i < 4; ++i) substituted[i] = substitution_[word[(i + (rotate ? 1 : 0)) % 4]];
        std::memcpy(word, substituted, 4);
        if (rotate) {
          word[0] ^= rcon;
          rcon = Double(rcon);
        }
      }
      for (size_t i = 0; i < 4; ++i) round_keys_[at + i] = static_cast<uint8_t>(round_keys_[at - 32 + i] ^ word[i]);
    }
  }

  void AddKey(Block* state, size_t round) const {
    for (size_t i = 0; i < 16; ++i) (*state)[i] ^= round_keys_[16 * round + i];
  }

  // Bytes are padded with zeros to whole blocks.
  void Hash(Block* y, const Bytes& bytes) const {
    for (size_t at = 0; at < bytes.size(); at += 16) {
      for (size_t i = 0; i < 16 && at + i < bytes.size(); ++i) (*y)[i] ^= bytes[at + i];
      Block product = {};
      for (size_t bit = 0; bit < 128; ++bit) {
        if (((*y)[bit / 8] >> (7 - bit % 8) & 1) == 0) continue;
        for (size_t i = 0; i < 16; ++i) product[i] ^= multiples_[bit][i];
      }
      *y = product;
    }
  }

  std::array<uint8_t, 256> substitution_;
  std::array<uint8_t, 240> round_keys_;
  Block h_;
  std::array<Block, 128> multiples_;
};

}  // namespace keyfold

#endif  // KEYFOLD_TEST_NATIVE_REFERENCE_GCM_H_
