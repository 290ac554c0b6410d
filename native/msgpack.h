// The elements of a batch: MessagePack byte strings, one after the other, without the header of their array. Every
// well-formed width of length is read (bin 8, 16 and 32); the smallest is written.

#ifndef KEYFOLD_NATIVE_MSGPACK_H_
#define KEYFOLD_NATIVE_MSGPACK_H_

#include "bytes.h"

namespace keyfold {

inline constexpr uint8_t kNil = 0xc0;

// Elements is `count` MessagePack byte strings that fill [data, data + len) exactly.
struct Elements {
  const uint8_t* data;
  size_t len;
  size_t count;
};

// Walker steps over elements. It looks at each byte once and trusts none, so it is safe on memory that somebody else
// writes to meanwhile.
class Walker {
 public:
  Walker(const Elements& elements, bool nil_allowed)
      : at_(elements.data), end_(elements.data + elements.len), nil_allowed_(nil_allowed) {}

  // Next reads one element; false where it is not a byte string (or nil, where allowed) or runs past the end.
  [[nodiscard]] bool Next(Span* element, bool* nil) {
    *nil = false;
    const size_t left = static_cast<size_t>(end_ - at_);
    if (left == 0) return false;
    size_t head;
    size_t len;
    switch (at_[0]) {
      case 0xc4:
        if (left < 2) return false;
        head = 2;
        len = at_[1];
        break;
      case 0xc5:
        if (left < 3) return false;
        head = 3;
        len = static_cast<size_t>(at_[1]) << 8 | at_[2];
        break;
      case 0xc6:
        if (left < 5) return false;
        head = 5;
        len = ReadU32(at_ + 1);
        break;
      case kNil:
        if (!nil_allowed_) return false;
        *nil = true;
        head = 1;
        len = 0;
        break;
      default:
        return false;
    }
    if (len > left - head) return false;
    *element = {at_ + head, len};
    at_ += head + len;
    return true;
  }

  const uint8_t* at() const { return at_; }
  bool AtEnd() const { return at_ == end_; }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
  bool nil_allowed_;
};

// ElementHeadBytes is the length of the smallest head of a byte string, ElementBytes of head and bytes.
inline size_t ElementHeadBytes(size_t len) { return len < 0x100 ? 2 : len < 0x10000 ? 3 : 5; }
inline size_t ElementBytes(size_t len) { return ElementHeadBytes(len) + len; }

// WriteElementHead returns where the bytes go.
inline uint8_t* WriteElementHead(uint8_t* out, size_t len) {
  if (len < 0x100) {
    out[0] = 0xc4;
    out[1] = static_cast<uint8_t>(len);
    return out + 2;
  }
  if (len < 0x10000) {
    out[0] = 0xc5;
    out[1] = static_cast<uint8_t>(len >> 8);
    out[2] = static_cast<uint8_t>(len);
    return out + 3;
  }
  out[0] = 0xc6;
  WriteU32(out + 1, static_cast<uint32_t>(len));
  return out + 5;
}

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_MSGPACK_H_
