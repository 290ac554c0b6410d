#include "audit_lines.h"

#include <charconv>
#include <cstring>
#include <string_view>

#include "sha2.h"

namespace keyfold {
namespace {

constexpr std::string_view kGroup = ",\"group\":";
constexpr std::string_view kSequence = ",\"sequence\":";
constexpr std::string_view kPreviousHash = ",\"previousHash\":\"";
constexpr std::string_view kPreviousHashEnd = "\"";
constexpr std::string_view kHash = ",\"hash\":\"";
constexpr std::string_view kEnd = "\"}\n";
constexpr size_t kTimeBytes = sizeof("2026-11-25T13:36:54.123Z") - 1;
// Whole numbers up to 2^53.
constexpr size_t kNumberBytesMax = 16;
constexpr double kNumberMax = 9007199254740992.0;
// The end of the year 9999, from where on a time has more digits.
constexpr double kTimeMsEnd = 253402300800000.0;
constexpr size_t kChainBytesMax = kGroup.size() + kSequence.size() + 2 * kNumberBytesMax + kPreviousHash.size() +
                                  kPreviousHashEnd.size() + kHash.size() + 2 * kHexHashBytes + kEnd.size();

bool IsCount(double number) {
  return number >= 0 && number <= kNumberMax && number == static_cast<double>(static_cast<uint64_t>(number));
}

bool IsPlain(const Span& text) {
  for (size_t i = 0; i < text.len; i++) {
    const uint8_t c = text.data[i];
    if (c < 0x20 || c > 0x7e || c == '"' || c == '\\') return false;
  }
  return true;
}

// A place in `out` that has room for what is put there.
class Text {
 public:
  explicit Text(uint8_t* at) : at_(at) {}

  void Put(const uint8_t* bytes, size_t len) {
    std::memcpy(at_, bytes, len);
    at_ += len;
  }
  void Put(const Span& bytes) { Put(bytes.data, bytes.len); }
  void Put(std::string_view text) { Put(reinterpret_cast<const uint8_t*>(text.data()), text.size()); }

  void PutNumber(double number) {
    char* const begin = reinterpret_cast<char*>(at_);
    const auto end = std::to_chars(begin, begin + kNumberBytesMax, static_cast<uint64_t>(number));
    at_ += end.ptr - begin;
  }

  // As Date.prototype.toISOString has it.
  void PutTime(double time_ms) {
    const uint64_t ms = static_cast<uint64_t>(time_ms);
    const uint64_t seconds = ms / 1000;
    uint32_t year, month, day;
    CivilDate(seconds / 86400, &year, &month, &day);
    const uint32_t second_of_day = static_cast<uint32_t>(seconds % 86400);
    PutDigits(year, 4, '-');
    PutDigits(month, 2, '-');
    PutDigits(day, 2, 'T');
    PutDigits(second_of_day / 3600, 2, ':');
    PutDigits(second_of_day / 60 % 60, 2, ':');
    PutDigits(second_of_day % 60, 2, '.');
    PutDigits(static_cast<uint32_t>(ms % 1000), 3, 'Z');
  }

  uint8_t* at() const { return at_; }

 private:
  void PutDigits(uint32_t number, size_t digits, char after) {
    for (size_t i = digits; i > 0; i--, number /= 10) at_[i - 1] = static_cast<uint8_t>('0' + number % 10);
    at_[digits] = static_cast<uint8_t>(after);
    at_ += digits + 1;
  }

  // Years that begin in March have the leap day last; 400 of them have 146,097 days (the Gregorian calendar).
  static void CivilDate(uint64_t days_since_1970, uint32_t* year, uint32_t* month, uint32_t* day) {
    const uint64_t days = days_since_1970 + 719468;
    const uint64_t era = days / 146097;
    const uint64_t day_of_era = days % 146097;
    const uint64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    const uint64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const uint64_t from_march = (5 * day_of_year + 2) / 153;
    *day = static_cast<uint32_t>(day_of_year - (153 * from_march + 2) / 5 + 1);
    *month = static_cast<uint32_t>(from_march < 10 ? from_march + 3 : from_march - 9);
    *year = static_cast<uint32_t>(400 * era + year_of_era + (*month <= 2 ? 1 : 0));
  }

  uint8_t* at_;
};

void HashHex(uint8_t out[kHexHashBytes], const uint8_t* bytes, size_t len) {
  static constexpr char kDigits[] = "0123456789abcdef";
  uint8_t digest[32];
  Sha256 hash;
  Sha256Init(&hash);
  Sha256Update(&hash, bytes, len);
  Sha256Final(digest, &hash);
  for (size_t i = 0; i < sizeof(digest); i++) {
    out[2 * i] = static_cast<uint8_t>(kDigits[digest[i] >> 4]);
    out[2 * i + 1] = static_cast<uint8_t>(kDigits[digest[i] & 15]);
  }
}

// The pieces of a head, checked once.
bool HaveOrder(const AuditEvents& events) {
  double end = 0;
  for (size_t i = 0; i < kHeadPieces * events.num_heads; i++) {
    if (!IsCount(events.ends[i]) || events.ends[i] < end) return false;
    end = events.ends[i];
  }
  return end <= static_cast<double>(events.pieces.len);
}

Span PieceAt(const AuditEvents& events, size_t index) {
  const size_t start = index == 0 ? 0 : static_cast<size_t>(events.ends[index - 1]);
  return {events.pieces.data + start, static_cast<size_t>(events.ends[index]) - start};
}

bool AreEvents(const AuditEvents& events) {
  size_t ids_left = events.request_ids.len;
  for (size_t i = 0; i < events.num_events; i++) {
    const double* row = events.numbers + kEventColumns * i;
    for (size_t column = 0; column < kEventColumns; column++) {
      if (!IsCount(row[column])) return false;
    }
    if (row[0] >= static_cast<double>(events.num_heads) || row[1] >= kTimeMsEnd) return false;
    if (row[2] > static_cast<double>(ids_left)) return false;
    ids_left -= static_cast<size_t>(row[2]);
  }
  return ids_left == 0 && IsPlain(events.request_ids);
}

}  // namespace

Status EncodeAuditLines(uint8_t* out, size_t out_len, const AuditEvents& events, size_t first, AuditChain* chain,
                        AuditLines* lines) {
  if (!HaveOrder(events) || !AreEvents(events)) return Status::kMisuse;
  if (!IsCount(chain->group) || !IsCount(chain->sequence)) return Status::kMisuse;
  AuditChain next = *chain;
  size_t id_at = 0;
  size_t written = 0;
  size_t num_written = 0;
  for (size_t i = 0; i < events.num_events; i++) {
    const double* row = events.numbers + kEventColumns * i;
    const Span id = {events.request_ids.data + id_at, static_cast<size_t>(row[2])};
    id_at += id.len;
    if (i < first) continue;
    const size_t head = kHeadPieces * static_cast<size_t>(row[0]);
    size_t len_max = kTimeBytes + id.len + 3 * kNumberBytesMax + kChainBytesMax;
    for (size_t piece = 0; piece < kHeadPieces; piece++) len_max += PieceAt(events, head + piece).len;
    if (len_max > out_len - written) break;

    uint8_t* const line = out + written;
    Text text(line);
    text.Put(PieceAt(events, head));
    text.PutTime(row[1]);
    text.Put(PieceAt(events, head + 1));
    text.Put(id);
    for (size_t column = 3; column < kEventColumns; column++) {
      text.Put(PieceAt(events, head + column - 1));
      text.PutNumber(row[column]);
    }
    text.Put(PieceAt(events, head + kHeadPieces - 1));
    text.Put(kGroup);
    text.PutNumber(next.group);
    text.Put(kSequence);
    text.PutNumber(++next.sequence);
    text.Put(kPreviousHash);
    text.Put(next.hash, kHexHashBytes);
    text.Put(kPreviousHashEnd);
    HashHex(next.hash, line, static_cast<size_t>(text.at() - line));
    text.Put(kHash);
    text.Put(next.hash, kHexHashBytes);
    text.Put(kEnd);
    written = static_cast<size_t>(text.at() - out);
    num_written++;
  }
  *chain = next;
  *lines = {num_written, written};
  return Status::kOk;
}

}  // namespace keyfold
