// SHA-256, SHA-512 and HKDF-SHA-512 against published figures.

#include "../../native/sha2.h"

#include <algorithm>

#include "check.h"

namespace keyfold {
namespace {

Bytes Sha256Of(const Bytes& message, size_t piece) {
  Sha256 hash;
  Sha256Init(&hash);
  for (size_t at = 0; at < message.size(); at += piece) {
    Sha256Update(&hash, message.data() + at, std::min(piece, message.size() - at));
  }
  Bytes digest(32);
  Sha256Final(digest.data(), &hash);
  const uint8_t* const wiped = reinterpret_cast<const uint8_t*>(&hash);
  CHECK(std::all_of(wiped, wiped + sizeof(hash), [](uint8_t byte) { return byte == 0; }));
  return digest;
}

Bytes Sha512Of(const Bytes& message, size_t piece) {
  Sha512 hash;
  Sha512Init(&hash);
  for (size_t at = 0; at < message.size(); at += piece) {
    Sha512Update(&hash, message.data() + at, std::min(piece, message.size() - at));
  }
  Bytes digest(64);
  Sha512Final(digest.data(), &hash);
  return digest;
}

Bytes Ascii(const std::string& text) { return Bytes(text.begin(), text.end()); }

// NIST's examples for FIPS 180-4 (SHA256.pdf, SHA512.pdf) and the message of a million a's of FIPS 180-2.
void DigestsAreThoseOfFips180() {
  const Bytes two_blocks_256 = Ascii("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq");
  const Bytes two_blocks_512 = Ascii(
      "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrst"
      "nopqrstu");
  const Bytes million(1000000, 'a');
  for (const size_t piece : {1000000, 1, 7, 63, 64, 65, 127, 128, 129}) {
    CHECK(Sha256Of({}, piece) == FromHex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    CHECK(Sha256Of(Ascii("abc"), piece) ==
          FromHex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    CHECK(Sha256Of(two_blocks_256, piece) ==
          FromHex("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"));
    CHECK(Sha256Of(million, piece) == FromHex("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
    CHECK(Sha512Of(Ascii("abc"), piece) ==
          FromHex("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                  "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"));
    CHECK(Sha512Of({}, piece) == FromHex("cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
                                         "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"));
    CHECK(Sha512Of(two_blocks_512, piece) ==
          FromHex("8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018"
                  "501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909"));
    CHECK(Sha512Of(million, piece) == FromHex("e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb"
                                              "de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b"));
  }
}

// C2SP/wycheproof testvectors_v1/hkdf_sha512_test.json, by tcId.
void HkdfIsThatOfWycheproof() {
  struct Case {
    int id;
    const char* ikm;
    const char* salt;
    const char* info;
    const char* okm;
  };
  const Case cases[] = {
      {1, "24aeff2645e3e0f5494a9a102778c43a", "", "", "dd2599840b09699c6200b5cba79002b3aa75c61b"},
      {3, "a4748031a14d3e6aafe42aa20c568f5f", "", "",
       "62ea97e06051e40b79deb127a4da294f557cafa3d7a90a75c02064571dfbbe4699129bdcec4b39eed7757ce8e3571589"
       "f7d8f5523c0dc3fd6a56b099fb4bfd51"},
      {5, "c181696a19ab1a32eb6e81b2925d8990", "", "d8c8de92fe5422c9825996354db1821ba43a81ac",
       "bd646410b4ef179e10369db6d7e4fe841e7915f8ae793b8f49149c05a0cee691b234c8cbb51c8b038b7a"},
      {20, "24a37db03dbcffbe9e28d582d0d8c60a",
       "4c3d3b4f5436418713fbe2fbc4d647095ce5d5392dcfffd20327187e14fb68360b94c5122203292d8b648a754ab70f6d3d61e065"
       "0f06d55c4b5762cba0231e27",
       "8cd9e7b786a74bd370bae434e31a559bdf75d65f",
       "ea18185ff290f27480f625404a39d56582a1bcd8f74f97cfccb898ddf2611833ed57fa46e88e145b604d"},
      {38, "e94ac367c6f7ce07a3e7f83a1ea4a0ea264ddcd8",
       "5c139fd7769291e5101cc8c1ba44a356b5c3fe3d13b0a68e69b6c09f28fe", "",
       "7eb2c44e2595f2d560198961ccae6669fae385e4b404052320a9994826b36b0724e639d02568539d7b12c2c87d3c5a9b"
       "e000052bba24ea262b38e80bb72efd54"},
  };
  for (const Case& c : cases) {
    const Bytes ikm = FromHex(c.ikm), salt = FromHex(c.salt), info = FromHex(c.info), okm = FromHex(c.okm);
    HkdfScratch scratch;
    uint8_t prk[64];
    HkdfExtract(prk, salt.data(), salt.size(), ikm.data(), ikm.size(), &scratch);
    Bytes out(okm.size());
    CHECK_CASE(HkdfExpand(out.data(), out.size(), prk, info.data(), info.size(), &scratch), "tcId %d", c.id);
    CHECK_CASE(out == okm, "tcId %d", c.id);
  }
}

// RFC 5869 §2.3: each output is the beginning of a longer one, and 255 blocks are the most.
void HkdfStopsAt255Blocks() {
  const Bytes prk = Noise(1).Take(64);
  const Bytes info = Ascii("keyfold");
  HkdfScratch scratch;
  Bytes longest(255 * 64);
  CHECK(HkdfExpand(longest.data(), longest.size(), prk.data(), info.data(), info.size(), &scratch));
  // The last block of the longest output was made with counter 255 and is unlike the one before.
  CHECK(!std::equal(longest.end() - 64, longest.end(), longest.end() - 128));
  for (const size_t len : {0, 1, 63, 64, 65, 128, 1000}) {
    Bytes out(len);
    CHECK(HkdfExpand(out.data(), len, prk.data(), info.data(), info.size(), &scratch));
    CHECK_CASE(std::equal(out.begin(), out.end(), longest.begin()), "length %zu", len);
  }
  Bytes untouched(255 * 64 + 1, 0x5a);
  CHECK(!HkdfExpand(untouched.data(), untouched.size(), prk.data(), info.data(), info.size(), &scratch));
  CHECK(std::all_of(untouched.begin(), untouched.end(), [](uint8_t byte) { return byte == 0x5a; }));
}

}  // namespace
}  // namespace keyfold

int main() {
  keyfold::DigestsAreThoseOfFips180();
  keyfold::HkdfIsThatOfWycheproof();
  keyfold::HkdfStopsAt255Blocks();
}
