// XAES-256-GCM's key derivation (NIST SP 800-108r1 in counter mode over CMAC-AES256) and the key commitment of
// KC-XAES-256-GCM.

#include "xaes.h"

#include <cstring>

#include "wipe.h"

namespace keyfold {
namespace {

void XorBlock(uint8_t out[16], const uint8_t in[16]) {
  for (size_t i = 0; i < kAesBlockBytes; ++i) out[i] = static_cast<uint8_t>(out[i] ^ in[i]);
}

}  // namespace

void XaesInit(XaesKey* out, const AesGcm& gcm, const uint8_t key[32]) {
  gcm.expand_key(&out->aes, key);
  const uint8_t zero[kAesBlockBytes] = {};
  gcm.encrypt_blocks(out->k1, out->aes, zero, 1);
  // K1 = L·x in GF(2^128) (NIST SP 800-38B §6.1), without a branch on its first bit.
  const uint8_t carry_out = static_cast<uint8_t>(out->k1[0] >> 7);
  for (size_t i = 0; i + 1 < kAesBlockBytes; ++i) {
    out->k1[i] = static_cast<uint8_t>((out->k1[i] << 1) | (out->k1[i + 1] >> 7));
  }
  out->k1[15] = static_cast<uint8_t>((out->k1[15] << 1) ^ (carry_out * 0x87));
}

void XaesDerive(uint8_t kx[32], const AesGcm& gcm, const XaesKey& key, const uint8_t nonce12[12]) {
  uint8_t blocks[2][kAesBlockBytes] = {{0x00, 0x01, 'X', 0x00}, {0x00, 0x02, 'X', 0x00}};
  for (auto& block : blocks) {
    std::memcpy(block + 4, nonce12, 12);
    XorBlock(block, key.k1);
  }
  gcm.encrypt_blocks(kx, key.aes, blocks[0], 2);
  // They hold K1, as everybody knows the nonce.
  Wipe(blocks, sizeof(blocks));
}

void KcInit(uint8_t x[16], const AesGcm& gcm, const XaesKey& key, const uint8_t nonce12[12]) {
  uint8_t block[kAesBlockBytes] = {'X', 'C', 'M', 'T'};
  std::memcpy(block + 4, nonce12, 12);
  gcm.encrypt_blocks(x, key.aes, block, 1);
}

void KcCommit(uint8_t kc[32], const AesGcm& gcm, const XaesKey& key, const uint8_t x[16],
              const uint8_t nonce_tail[12]) {
  uint8_t blocks[2][kAesBlockBytes];
  for (uint8_t i = 0; i < 2; ++i) {
    const uint8_t suffix[4] = {0x00, 0x01, 0x00, static_cast<uint8_t>(i + 1)};
    std::memcpy(blocks[i], nonce_tail, 12);
    std::memcpy(blocks[i] + 12, suffix, sizeof(suffix));
    XorBlock(blocks[i], x);
    XorBlock(blocks[i], key.k1);
  }
  gcm.encrypt_blocks(kc, key.aes, blocks[0], 2);
  Wipe(blocks, sizeof(blocks));
}

}  // namespace keyfold
