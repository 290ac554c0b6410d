// Lines of the audit log: text, dates and hashes as Python's json, datetime and hashlib have them, and input that is none.

#include "../../native/audit_lines.h"

#include <cstring>
#include <limits>

#include "check.h"

namespace keyfold {
namespace {

const std::string kPieces[kHeadPieces] = {"{\"t\":\"", "\",\"i\":\"", "\",\"m\":", ",\"b\":", ",\"f\":", ",\"o\":{}"};
const std::string kIds = "req-1req-22";
const std::string kFirstHash(kHexHashBytes, '0');
const std::string kHashes[] = {"ab2a58d64d6c6957233f5ddd4e98de778c733a64384b3889bef1b3b616a3e9f3",
                               "90921b7efad90716d17c1c92e8f195f9952c98c360ad80e7c1a718458ac72ecd"};
const std::string kLines[] = {
    "{\"t\":\"2000-02-29T23:59:59.999Z\",\"i\":\"req-1\",\"m\":1,\"b\":64,\"f\":0,\"o\":{},\"group\":5,\"sequence\":5,"
    "\"previousHash\":\"" + kFirstHash + "\",\"hash\":\"" + kHashes[0] + "\"}\n",
    "{\"t\":\"9999-12-31T23:59:59.999Z\",\"i\":\"req-22\",\"m\":4096,\"b\":9007199254740992,\"f\":3,\"o\":{},"
    "\"group\":5,\"sequence\":6,\"previousHash\":\"" + kHashes[0] + "\",\"hash\":\"" + kHashes[1] + "\"}\n"};
// What a line may need at most beyond its text: numbers of 16 digits.
constexpr size_t kSlack = 5 * 16;

struct Group {
  std::vector<double> numbers = {0, 951868799999, 5, 1, 64, 0, 0, 253402300799999, 6, 4096, 9007199254740992, 3};
  std::string ids = kIds;
  std::string pieces;
  std::vector<double> ends;

  Group() {
    for (const std::string& piece : kPieces) {
      pieces += piece;
      ends.push_back(static_cast<double>(pieces.size()));
    }
  }

  AuditEvents events() const {
    return {numbers.data(),
            numbers.size() / kEventColumns,
            {reinterpret_cast<const uint8_t*>(ids.data()), ids.size()},
            {reinterpret_cast<const uint8_t*>(pieces.data()), pieces.size()},
            ends.data(),
            ends.size() / kHeadPieces};
  }
};

AuditChain ChainAt(double sequence, const std::string& hash) {
  AuditChain chain;
  chain.group = 5;
  chain.sequence = sequence;
  std::memcpy(chain.hash, hash.data(), kHexHashBytes);
  return chain;
}

std::string HashOf(const AuditChain& chain) {
  return std::string(reinterpret_cast<const char*>(chain.hash), kHexHashBytes);
}

void LinesAreChained() {
  const Group group;
  AuditChain chain = ChainAt(4, kFirstHash);
  Bytes out(4096);
  AuditLines lines;
  CHECK(EncodeAuditLines(out.data(), out.size(), group.events(), 0, &chain, &lines) == Status::kOk);
  CHECK(lines.num_events == 2);
  CHECK(std::string(out.begin(), out.begin() + static_cast<ptrdiff_t>(lines.len)) == kLines[0] + kLines[1]);
  CHECK(chain.sequence == 6 && HashOf(chain) == kHashes[1]);
}

// Memory of exactly the length that is said, so that the sanitizers see a byte beyond it.
void WhatDoesNotFitComesNext() {
  const Group group;
  for (size_t room = 0; room < kLines[0].size() + kLines[1].size() + kSlack; room++) {
    AuditChain chain = ChainAt(4, kFirstHash);
    Bytes out(room);
    std::string text;
    AuditLines lines;
    CHECK(EncodeAuditLines(out.data(), out.size(), group.events(), 0, &chain, &lines) == Status::kOk);
    CHECK(lines.len <= room);
    text.assign(out.begin(), out.begin() + static_cast<ptrdiff_t>(lines.len));
    Bytes rest(4096);
    AuditLines left;
    CHECK(EncodeAuditLines(rest.data(), rest.size(), group.events(), lines.num_events, &chain, &left) == Status::kOk);
    CHECK(lines.num_events + left.num_events == 2);
    text.append(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(left.len));
    CHECK_CASE(text == kLines[0] + kLines[1], "room %zu", room);
  }
}

void IsRefused(const Group& group) {
  AuditChain chain = ChainAt(4, kFirstHash);
  Bytes out(4096, 0xee);
  AuditLines lines;
  CHECK(EncodeAuditLines(out.data(), out.size(), group.events(), 0, &chain, &lines) == Status::kMisuse);
  CHECK(chain.sequence == 4 && HashOf(chain) == kFirstHash);
  CHECK(out == Bytes(4096, 0xee));
}

void WhatIsNoGroupWritesNothing() {
  for (size_t at = 0; at < 2 * kEventColumns; at++) {
    for (const double number : {-1.0, 0.5, 1e16, std::numeric_limits<double>::quiet_NaN(),
                                std::numeric_limits<double>::infinity()}) {
      Group group;
      group.numbers[at] = number;
      IsRefused(group);
    }
  }
  for (const size_t row : {size_t{0}, kEventColumns}) {
    Group head, late, longer, shorter;
    head.numbers[row] = 1;
    IsRefused(head);
    late.numbers[row + 1] = 253402300800000;
    IsRefused(late);
    longer.numbers[row + 2]++;
    IsRefused(longer);
    shorter.numbers[row + 2]--;
    IsRefused(shorter);
  }
  for (const char c : {'"', '\\', '\n', '\x1f', '\x7f', '\x80', '\xff', '\0'}) {
    for (size_t at = 0; at < kIds.size(); at++) {
      Group group;
      group.ids[at] = c;
      IsRefused(group);
    }
  }
  for (size_t at = 0; at < kHeadPieces; at++) {
    Group beyond, back;
    beyond.ends[at] = static_cast<double>(beyond.pieces.size() + 1);
    IsRefused(beyond);
    back.ends[at] = -1;
    IsRefused(back);
  }
}

}  // namespace
}  // namespace keyfold

int main() {
  keyfold::LinesAreChained();
  keyfold::WhatDoesNotFitComesNext();
  keyfold::WhatIsNoGroupWritesNothing();
}
