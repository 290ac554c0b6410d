// AES-256-GCM and XAES: every implementation that this processor has, against published figures and against a slow
// reference, over lengths, mixtures of lengths, alignments and damage.

#include <algorithm>
#include <cstring>
#include <memory>

#include "../../native/aes_gcm.h"
#include "../../native/cpu.h"
#include "../../native/xaes.h"
#include "check.h"
#include "reference_gcm.h"

namespace keyfold {
namespace {

// Guard surrounds what a kernel may write with bytes that it may not.
constexpr size_t kGuardBytes = 64;
constexpr uint8_t kGuard = 0xa7;

struct NamedImplementation {
  Implementation implementation;
  const char* name;
};
constexpr NamedImplementation kImplementations[] = {{Implementation::kAesni, "aesni"}, {Implementation::kVaes, "vaes"}};

// Each calls check(gcm, name) for all implementations there are.
template <class Check>
void Each(Check check) {
  for (const auto& [implementation, name] : kImplementations) {
    const AesGcm* const gcm = GetAesGcm(implementation);
    CHECK((gcm != nullptr) == Supports(implementation));
    if (gcm != nullptr) check(*gcm, name);
  }
}

// Batch is one group of messages in one piece of memory, as message_batch lays them out, at odd places.
class Batch {
 public:
  Batch(const AesGcm& gcm, Bytes key, Bytes nonce_prefix, Bytes aad)
      : gcm_(gcm), nonce_prefix_(std::move(nonce_prefix)), aad_(std::move(aad)) {
    gcm_.init(&key_, key.data(), 0);
    gcm_.hash_aad(&hashed_, &key_, aad_.data(), aad_.size());
  }

  // Run lays the inputs out, misaligned by `skew` bytes, and seals or opens them. It checks that nothing was written
  // outside of the outputs, and returns them.
  std::vector<Bytes> Seal(const std::vector<Bytes>& plaintexts, const std::vector<uint32_t>& indices, size_t skew) {
    return Run(plaintexts, indices, skew, true);
  }
  std::vector<Bytes> Open(const std::vector<Bytes>& sealed, const std::vector<uint32_t>& indices, size_t skew) {
    return Run(sealed, indices, skew, false);
  }

  // Whether the tag of each message of the last Open matched.
  const std::vector<bool>& ok() const { return ok_; }

 private:
  std::vector<Bytes> Run(const std::vector<Bytes>& inputs, const std::vector<uint32_t>& indices, size_t skew,
                         bool seal) {
    Bytes in(skew);
    std::vector<size_t> out_lens;
    size_t out_bytes = 0;
    for (const Bytes& input : inputs) {
      in.insert(in.end(), input.begin(), input.end());
      out_lens.push_back(seal ? input.size() + kGcmTagBytes : input.size() - kGcmTagBytes);
      out_bytes += out_lens.back() + kGuardBytes;
    }
    // The input ends where its memory ends, so that the sanitizer sees a byte read past it.
    const std::unique_ptr<uint8_t[]> exact(new uint8_t[in.size()]);
    std::copy(in.begin(), in.end(), exact.get());
    Bytes out(skew + kGuardBytes + out_bytes, kGuard);
    std::vector<GcmMessage> messages;
    const uint8_t* from = exact.get() + skew;
    size_t to = skew + kGuardBytes;
    std::vector<size_t> places;
    for (size_t i = 0; i < inputs.size(); ++i) {
      places.push_back(to);
      const size_t len = seal ? inputs[i].size() : out_lens[i];
      messages.push_back({from, out.data() + to, len, indices[i], false});
      from += inputs[i].size();
      to += out_lens[i] + kGuardBytes;
    }
    (seal ? gcm_.seal_many : gcm_.open_many)(&key_, hashed_, nonce_prefix_.data(), messages.data(),
                                             messages.size());
    ok_.clear();
    std::vector<Bytes> outputs;
    size_t guard = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      for (; guard < places[i]; ++guard) CHECK_CASE(out[guard] == kGuard, "message %zu", i);
      outputs.emplace_back(out.begin() + static_cast<ptrdiff_t>(places[i]),
                           out.begin() + static_cast<ptrdiff_t>(places[i] + out_lens[i]));
      guard = places[i] + out_lens[i];
      ok_.push_back(messages[i].ok);
    }
    for (; guard < out.size(); ++guard) CHECK(out[guard] == kGuard);
    return outputs;
  }

  const AesGcm& gcm_;
  GcmKey key_;
  GcmAad hashed_;
  Bytes nonce_prefix_;
  Bytes aad_;
  std::vector<bool> ok_;
};

Bytes NonceOf(const Bytes& prefix, uint32_t index) {
  Bytes nonce = prefix;
  for (int shift = 24; shift >= 0; shift -= 8) nonce.push_back(static_cast<uint8_t>(index >> shift));
  return nonce;
}

struct KnownAnswer {
  const char* source;
  const char* key;
  const char* nonce;
  const char* aad;
  const char* plaintext;
  const char* ciphertext;
  const char* tag;
};

// NIST CAVP gcmEncryptExtIV256.rsp, the first case of each pair of lengths named; C2SP/wycheproof
// testvectors_v1/aes_gcm_test.json by tcId.
const KnownAnswer kKnownAnswers[] = {
    {"CAVP PTlen 0 AADlen 0", "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4",
     "516c33929df5a3284ff463d7", "", "", "", "bdc1ac884d332457a1d2664f168c76f0"},
    {"CAVP PTlen 0 AADlen 384", "f4069bb739d07d0cafdcbc609ca01597f985c43db63bbaaa0debbb04d384e49c",
     "d25ff30fdc3d464fe173e805",
     "3e1449c4837f0892f9d55127c75c4b25d69be334baf5f19394d2d8bb460cbf2120e14736d0f634aa792feca20e455f11", "", "",
     "805ec2931c2181e5bfb74fa0a975f0cf"},
    {"CAVP PTlen 128 AADlen 160", "83688deb4af8007f9b713b47cfa6c73e35ea7a3aa4ecdb414dded03bf7a0fd3a",
     "0b459724904e010a46901cf3", "794a14ccd178c8ebfd1379dc704c5e208f9d8424", "33d893a2114ce06fc15d55e454cf90c3",
     "cc66bee423e3fcd4c0865715e9586696", "0fb291bd3dba94a1dfd8b286cfb97ac5"},
    {"CAVP PTlen 104 AADlen 720", "ff9506b4d46ba54128876fadfcc673a4c927c618ea7d95cfcaa508cbc8f7fc66",
     "3742ad2208a0484345eee1be",
     "f1360a27fdc244be8739d85af6491c762a693aafe668c449515fdeeedb6a90aeee3891bbc8b69adc6a6426cb12fcdebc32c9f58c52"
     "59d128b91efa28620a3a9a0168b0ff5e76951cb41647ba4aa1f87fac0d97ac580e42cffc7e",
     "7fd0d6cadc92cad27bb2d7d8c8", "bdb8346b28eb4d7226493611a6", "7484d827b767647f44c7f94a39f8175c"},
    {"CAVP PTlen 256 AADlen 128", "37ccdba1d929d6436c16bba5b5ff34deec88ed7df3d15d0f4ddf80c0c731ee1f",
     "5c1b21c8998ed6299006d3f9", "22ed235946235a85a45bc5fad7140bfa",
     "ad4260e3cdc76bcc10c7b2c06b80b3be948258e5ef20c508a81f51e96a518388",
     "3b335f8b08d33ccdcad228a74700f1007542a4d1e7fc1ebe3f447fe71af29816", "1fbf49cc46f458bf6e88f6370975e6d4"},
    {"CAVP PTlen 408 AADlen 160", "24501ad384e473963d476edcfe08205237acfd49b5b8f33857f8114e863fec7f",
     "9ff18563b978ec281b3f2794", "adb5ec720ccf9898500028bf34afccbcaca126ef",
     "27f348f9cdc0c5bd5e66b1ccb63ad920ff2219d14e8d631b3872265cf117ee86757accb158bd9abb3868fdc0d0b074b5f01b2c",
     "eb7cb754c824e8d96f7c6d9b76c7d26fb874ffbf1d65c6f64a698d839b0b06145dae82057ad55994cf59ad7f67c0fa5e85fab8",
     "bc95c532fecc594c36d1550286a7a3f0"},
    {"Wycheproof 106", "81b6b27e5ed90ab99fe6756d4cb41e3f07269687f5afabdb426e29096b5e4466", "13e727486031cca21f733375",
     "",
     "9a95a23cfb1e35d89a7597570df0fb0efcbb7429f53bebcbbfa49fa247b251a8508ad497066855d08688576188e4ffb12d1d084dca"
     "bec3d57806daf215dcc97edd",
     "7ede7368bca3c93d9f1d7f7750d6e44b1cb92c30e3c9834b0b69efd2470911644ae6f6d75715e13aea8781f8da611a13ac6364c406"
     "c1a715b7e97acb22b6e6156e",
     "74e20a93802f43407c8989a37f013802"},
    {"Wycheproof 108", "d7addd3889fadf8c893eee14ba2b7ea5bf56b449904869615bd05d5f114cf377", "8a3ad26b28cd13ba6504e260",
     "",
     "c877a76bf595560772167c6e3bcc705305db9c6fcbeb90f4fea85116038bc53c3fa5b4b4ea0de5cc534fbe1cf9ae44824c6c2c0a5c"
     "885bd8c3cdc906f12675737e434b983e1e231a52a275db5fb1a0cac6a07b3b7dcb19482a5d3b06a9317a54826cea6b36fce452fa9b"
     "5475e2aaf25499499d8a8932a19eb987c903bd8502fe",
     "53cc8c920a85d1accb88636d08bbe4869bfdd96f437b2ec944512173a9c0fe7a47f8434133989ba77dda561b7e3701b9a83c3ba766"
     "0c666ba59fef96598eb621544c63806d509ac47697412f9564eb0a2e1f72f6599f5666af34cffca06573ffb4f47b02f59f21c64363"
     "daecb977b4415f19fdda3c9aae5066a57b669ffaa257",
     "5e63374b519e6c3608321943d790cf9a"},
    {"Wycheproof 111", "dc4dbf811f9509e33a45a8a0743e9391de333f69c56ee4f0fe90ce21c238ee59", "1859d3ba4710cdd300baa029",
     "",
     "df91c48591f4cae8c4d659d024dfd0a3535981487764bf19b012713e6ac6d578aa0b3a51d7ac97cd503fdc8682cabdb6a5256e9890"
     "458356f39b9749f6ab158112fbe4f91acd333477998b9f0d7cc0be2d40acfa5103adc1b0d0a5cc94733d703e0d8c26e09e9d079fa6"
     "a65cf35240a16280826ab7c0d8ac5882c89e58444233c2f60aaae0cbd1a7ed850065242a9378c340232fd86f1fd52a92c960a9a86f"
     "529f431acf3aa94133785803f4ac1a22378332daa22dea3d34d2fdb7c308fa44ab93b3fb02f428be22fad6c0b10c138af97b92a199"
     "296dd947c93fbc40674c34c5623d26d9c90dc6b3357018b9f9250fb4dd5c11518191a236745a2bd42f863766",
     "9c511d08f244cb6971a39b70639c4a53ae48254fcb3d2eea4796ecc996f1fe26a8e30932258a48fe4237e5bfb0e1320dc591256dc8"
     "3cd56dbf5d9b377b7805b7fac0497b2f99e3310e9e2cc8009141a82f26f8a02299d64138bb1fe8a1243df3e9fb37b52bd3c2cc19f5"
     "43b3f4928e5a73730a7a6e6d75919d117d3dfe10e863a9846b2ca260de5dddba7ceac37019e615b89a2ab94df8d1a790749998cb85"
     "31fef1ef5f8a28a8ad60e813f7e78412ca4d95b9604a24a16e4a3ca8ee33bfbb7809048014943e5fd7966a7db214e052d1cc546a6d"
     "a72ec89d1c3398aefdcb881dfc3d800b7323abcd7583e9c8a31f03b6995d4aeac17c5a56d8af492a2b108fe3",
     "17090ce50e35244a59bafc80eba5dae5"},
    {"Wycheproof 119", "d058304c0ba039b2e2d08661fd8f6db88779bd5ce580eb766c1d6ab34b94ee94", "3c553397fafda0eb06a59f23",
     "cfb1fe1c47e2450109eaed4e1aac9431aa5db1e3b7eeacad3ebc9e8e1f3e0a823f757f619761e61ad05af8cef83104890940cd5921"
     "37eb7ba5879b95759c8be1525f9a01fc01582d93a2a841336a104d169968c274b5a8c30883b4bd621725f69079bb94a174a3c94db6"
     "2f2ae746d03200f01c19aaa8a3b89e78b99a62f76f",
     "0a064cd5e49845c4efb60fb343dc03faffa36c49", "a7d84ff71dc713161359b757af42c74dddbf53ce",
     "736e48a2b7792acc599baa651629a203"},
};

void KnownAnswersAreMatched() {
  for (const KnownAnswer& c : kKnownAnswers) {
    const Bytes nonce = FromHex(c.nonce);
    const Bytes prefix(nonce.begin(), nonce.begin() + 8);
    const uint32_t index = static_cast<uint32_t>(nonce[8]) << 24 | static_cast<uint32_t>(nonce[9]) << 16 |
                           static_cast<uint32_t>(nonce[10]) << 8 | nonce[11];
    const Bytes plaintext = FromHex(c.plaintext);
    const Bytes sealed = FromHex(std::string(c.ciphertext) + c.tag);
    CHECK_CASE(ReferenceGcm(FromHex(c.key).data()).Seal(nonce, FromHex(c.aad), plaintext) == sealed, "%s", c.source);
    Each([&](const AesGcm& gcm, const char* name) {
      Batch batch(gcm, FromHex(c.key), prefix, FromHex(c.aad));
      CHECK_CASE(batch.Seal({plaintext}, {index}, 1)[0] == sealed, "%s, %s", c.source, name);
      CHECK_CASE(batch.Open({sealed}, {index}, 1)[0] == plaintext, "%s, %s", c.source, name);
      CHECK_CASE(batch.ok()[0], "%s, %s", c.source, name);
    });
  }
}

// C2SP XAES-256-GCM.md and AWS-LC's crypto/cipher_extra/test/xaes_256_gcm_kc_tests.txt.
void XaesIsThatOfC2spAndAwsLc() {
  struct Case {
    uint8_t key_byte;
    const char* nonce;
    const char* aad;
    const char* plaintext;
    const char* k1;
    const char* kx;
    const char* sealed;
    const char* kc;
  };
  const Case cases[] = {
      {1, "4142434445464748494a4b4c4d4e4f505152535455565758", "", "584145532d3235362d47434d",
       "e531954aca063d5b8d9c47a47d4cc6f0", "c8612c9ed53fe43e8e005b828a1631a0bbcb6ab2f46514ec4f439fcfd0fa969b",
       "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
       "04076b6085eebab138855fe57811c04112eff989d44120dfff662d5475a383c3"},
      {3, "4142434445464748494a4b4c4d4e4f505152535455565758", "633273702e6f72672f584145532d3235362d47434d",
       "584145532d3235362d47434d", "23810ec50edb99f374409466ed1f4b7b",
       "e9c621d4cdd9b11b00a6427ad7e559aeedd66b3857646677748f8ca796cb3fd8",
       "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
       "5553cd21d1592b422e3129632a3187eee8a658cdca5c5b32ce86308dcc18e9d1"},
      {1, "424242424242424242424242424242424242424242424242", "", "48656c6c6f2c20584145532d3235362d47434d21",
       "e531954aca063d5b8d9c47a47d4cc6f0", nullptr,
       "01e5f78bc99de880bd2eeff2870d361f0eab5b2fc55268f34b14045878fe3668db980319",
       "bf37571be1b43aeca64a95d99a2f162e24f8bfd79bbb71fa7d943e6fc060a8ae"},
  };
  for (const Case& c : cases) {
    Each([&](const AesGcm& gcm, const char* name) {
      const Bytes nonce = FromHex(c.nonce);
      const Bytes key_bytes(32, c.key_byte);
      XaesKey key;
      XaesInit(&key, gcm, key_bytes.data());
      CHECK_CASE(Bytes(key.k1, key.k1 + 16) == FromHex(c.k1), "%s", name);
      Bytes kx(32);
      XaesDerive(kx.data(), gcm, key, nonce.data());
      if (c.kx != nullptr) CHECK_CASE(kx == FromHex(c.kx), "%s", name);
      const uint32_t index = static_cast<uint32_t>(nonce[20]) << 24 | static_cast<uint32_t>(nonce[21]) << 16 |
                             static_cast<uint32_t>(nonce[22]) << 8 | nonce[23];
      Batch batch(gcm, kx, Bytes(nonce.begin() + 12, nonce.begin() + 20), FromHex(c.aad));
      CHECK_CASE(batch.Seal({FromHex(c.plaintext)}, {index}, 0)[0] == FromHex(c.sealed), "%s", name);
      uint8_t x[16];
      Bytes kc(kKcBytes);
      KcInit(x, gcm, key, nonce.data());
      KcCommit(kc.data(), gcm, key, x, nonce.data() + 12);
      CHECK_CASE(kc == FromHex(c.kc), "%s", name);
    });
  }
}

// FIPS 197 appendix C.3 for the block and A.3 for the last round key.
void BlocksAreThoseOfFips197() {
  const Bytes key = FromHex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
  const Bytes plaintext = FromHex("00112233445566778899aabbccddeeff");
  const Bytes ciphertext = FromHex("8ea2b7ca516745bfeafc49904b496089");
  const Bytes key_a3 = FromHex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
  Each([&](const AesGcm& gcm, const char* name) {
    AesKey aes;
    gcm.expand_key(&aes, key_a3.data());
    const Bytes last(aes.round_keys + 14 * 16, aes.round_keys + 15 * 16);
    CHECK_CASE(last == FromHex("fe4890d1e6188d0b046df344706c631e"), "%s", name);
    gcm.expand_key(&aes, key.data());
    for (size_t blocks = 0; blocks <= 20; ++blocks) {
      Bytes in, expected;
      for (size_t i = 0; i < blocks; ++i) {
        in.insert(in.end(), plaintext.begin(), plaintext.end());
        expected.insert(expected.end(), ciphertext.begin(), ciphertext.end());
      }
      Bytes out(in.size());
      gcm.encrypt_blocks(out.data(), aes, in.data(), blocks);
      CHECK_CASE(out == expected, "%zu blocks, %s", blocks, name);
    }
  });
}

void EveryLengthIsThatOfTheReference() {
  Noise noise(2);
  const Bytes key = noise.Take(32), prefix = noise.Take(8), aad = noise.Take(55);
  const ReferenceGcm reference(key.data());
  std::vector<size_t> lens;
  for (size_t len = 0; len <= 1200; ++len) lens.push_back(len);
  for (const size_t len : {2047, 2048, 2049, 4095, 4096, 4097, 16383, 16384, 16385, 65537, 1048576, 1048577}) {
    lens.push_back(len);
  }
  for (const size_t len : lens) {
    const Bytes plaintext = noise.Take(len);
    const uint32_t index = static_cast<uint32_t>(noise.Next());
    const Bytes expected = reference.Seal(NonceOf(prefix, index), aad, plaintext);
    Each([&](const AesGcm& gcm, const char* name) {
      Batch batch(gcm, key, prefix, aad);
      CHECK_CASE(batch.Seal({plaintext}, {index}, len % 64)[0] == expected, "%zu bytes, %s", len, name);
      CHECK_CASE(batch.Open({expected}, {index}, len % 61)[0] == plaintext, "%zu bytes, %s", len, name);
      CHECK_CASE(batch.ok()[0], "%zu bytes, %s", len, name);
    });
  }
}

void EveryAadIsThatOfTheReference() {
  Noise noise(3);
  const Bytes key = noise.Take(32), prefix = noise.Take(8), plaintext = noise.Take(20);
  const ReferenceGcm reference(key.data());
  for (size_t len = 0; len <= 1300; len += len < 300 ? 1 : 37) {
    const Bytes aad = noise.Take(len);
    const Bytes expected = reference.Seal(NonceOf(prefix, 7), aad, plaintext);
    Each([&](const AesGcm& gcm, const char* name) {
      CHECK_CASE(Batch(gcm, key, prefix, aad).Seal({plaintext}, {7}, 0)[0] == expected, "AAD of %zu bytes, %s", len,
                 name);
    });
  }
}

// A group may hold any mixture; the kernels sort it. Sizes around each of their boundaries are likelier than others.
void MixturesAreThoseOfTheReference() {
  Noise noise(4);
  for (int round = 0; round < 120; ++round) {
    const Bytes key = noise.Take(32), prefix = noise.Take(8), aad = noise.Take(noise.Below(100));
    const ReferenceGcm reference(key.data());
    const size_t count = round < 80 ? noise.Below(20) : noise.Below(3 * kGcmGroup);
    const size_t limit = round % 3 == 0 ? 70 : round % 3 == 1 ? 600 : 1500;
    std::vector<Bytes> plaintexts, sealed;
    std::vector<uint32_t> indices;
    for (size_t i = 0; i < count; ++i) {
      const size_t boundary = 16 * noise.Below(limit / 16 + 1) + noise.Below(3);
      const size_t len = noise.Below(2) == 0 ? noise.Below(limit) : boundary - (boundary != 0 ? 1 : 0);
      plaintexts.push_back(noise.Take(len));
      indices.push_back(static_cast<uint32_t>(noise.Next()));
      sealed.push_back(reference.Seal(NonceOf(prefix, indices.back()), aad, plaintexts.back()));
    }
    Each([&](const AesGcm& gcm, const char* name) {
      Batch batch(gcm, key, prefix, aad);
      const size_t skew = noise.Below(65);
      CHECK_CASE(batch.Seal(plaintexts, indices, skew) == sealed, "round %d, %s", round, name);
      CHECK_CASE(batch.Open(sealed, indices, skew) == plaintexts, "round %d, %s", round, name);
      for (size_t i = 0; i < count; ++i) CHECK_CASE(batch.ok()[i], "round %d, message %zu, %s", round, i, name);
      // A damaged message fails alone.
      if (count == 0) return;
      std::vector<Bytes> damaged = sealed;
      const size_t victim = noise.Below(count);
      damaged[victim][noise.Below(damaged[victim].size())] ^= static_cast<uint8_t>(1 << noise.Below(8));
      const std::vector<Bytes> opened = batch.Open(damaged, indices, skew);
      for (size_t i = 0; i < count; ++i) {
        CHECK_CASE(batch.ok()[i] == (i != victim), "round %d, message %zu, %s", round, i, name);
        const Bytes expected = i == victim ? Bytes(plaintexts[i].size()) : plaintexts[i];
        CHECK_CASE(opened[i] == expected, "round %d, message %zu, %s", round, i, name);
      }
    });
  }
}

// One AesGcm key may see short messages first and long ones later: the powers of H grow.
void PowersGrowWithTheMessages() {
  Noise noise(5);
  const Bytes key = noise.Take(32), prefix = noise.Take(8);
  const ReferenceGcm reference(key.data());
  Each([&](const AesGcm& gcm, const char* name) {
    for (const size_t step : {1, 15, 16, 64, 100, 512}) {
      Batch batch(gcm, key, prefix, {});
      for (size_t len = 0; len < 1300; len += step) {
        const Bytes plaintext(len, 0x33);
        CHECK_CASE(batch.Seal({plaintext}, {9}, 0)[0] == reference.Seal(NonceOf(prefix, 9), {}, plaintext),
                   "%zu bytes in steps of %zu, %s", len, step, name);
      }
    }
    // The hint is a hint: it may be wrong in either direction.
    for (const size_t hint : {0, 64, 1000, 1 << 20}) {
      GcmKey hinted;
      gcm.init(&hinted, key.data(), hint);
      GcmAad aad;
      gcm.hash_aad(&aad, &hinted, nullptr, 0);
      const Bytes plaintext(777, 0x44);
      Bytes out(777 + kGcmTagBytes);
      GcmMessage message = {plaintext.data(), out.data(), 777, 1, false};
      gcm.seal_many(&hinted, aad, prefix.data(), &message, 1);
      CHECK_CASE(out == reference.Seal(NonceOf(prefix, 1), {}, plaintext), "hint %zu, %s", hint, name);
    }
  });
}

void EveryFlippedByteFailsAndLeavesZeros() {
  Noise noise(6);
  const Bytes key = noise.Take(32), prefix = noise.Take(8), aad = noise.Take(30);
  Each([&](const AesGcm& gcm, const char* name) {
    Batch batch(gcm, key, prefix, aad);
    for (const size_t len : {0, 1, 15, 16, 17, 64, 65, 129, 200, 511, 512, 513, 640, 1100}) {
      const Bytes plaintext = noise.Take(len);
      const Bytes sealed = batch.Seal({plaintext}, {1}, 3)[0];
      for (size_t at = 0; at < sealed.size(); ++at) {
        Bytes damaged = sealed;
        damaged[at] ^= static_cast<uint8_t>(1 << (at % 8));
        const Bytes opened = batch.Open({damaged}, {1}, 3)[0];
        CHECK_CASE(!batch.ok()[0], "byte %zu of %zu, %s", at, len, name);
        CHECK_CASE(opened == Bytes(len), "byte %zu of %zu, %s", at, len, name);
      }
      // Another index, key, nonce prefix and AAD.
      batch.Open({sealed}, {2}, 3);
      CHECK_CASE(!batch.ok()[0], "%zu bytes, %s", len, name);
      Bytes other_key = key, other_prefix = prefix, other_aad = aad;
      other_key[31] ^= 1;
      other_prefix[7] ^= 1;
      other_aad.push_back(0);
      for (Batch other : {Batch(gcm, other_key, prefix, aad), Batch(gcm, key, other_prefix, aad),
                          Batch(gcm, key, prefix, other_aad), Batch(gcm, key, prefix, {})}) {
        other.Open({sealed}, {1}, 3);
        CHECK_CASE(!other.ok()[0], "%zu bytes, %s", len, name);
      }
    }
  });
}

void EqualBytesComparesAll() {
  Noise noise(7);
  for (size_t len = 0; len < 70; ++len) {
    const Bytes a = noise.Take(len);
    CHECK(EqualBytes(a.data(), Bytes(a).data(), len));
    for (size_t at = 0; at < len; ++at) {
      Bytes b = a;
      b[at] ^= static_cast<uint8_t>(1 << (at % 8));
      CHECK_CASE(!EqualBytes(a.data(), b.data(), len), "byte %zu of %zu", at, len);
    }
  }
}

void TheBestImplementationIsOneThatRuns() {
  CHECK(!Supports(Implementation::kNone));
  CHECK(GetAesGcm(Implementation::kNone) == nullptr);
  const Implementation best = BestImplementation();
  CHECK(best == Implementation::kNone || GetAesGcm(best) != nullptr);
  if (Supports(Implementation::kVaes)) {
    CHECK(best == Implementation::kVaes);
    CHECK(GetAesGcm(Implementation::kVaes) != GetAesGcm(Implementation::kAesni));
  }
}

}  // namespace
}  // namespace keyfold

int main() {
  keyfold::TheBestImplementationIsOneThatRuns();
  keyfold::BlocksAreThoseOfFips197();
  keyfold::KnownAnswersAreMatched();
  keyfold::XaesIsThatOfC2spAndAwsLc();
  keyfold::EveryLengthIsThatOfTheReference();
  keyfold::EveryAadIsThatOfTheReference();
  keyfold::MixturesAreThoseOfTheReference();
  keyfold::PowersGrowWithTheMessages();
  keyfold::EveryFlippedByteFailsAndLeavesZeros();
  keyfold::EqualBytesComparesAll();
}
