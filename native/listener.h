// What the front end does not let us set on the socket that it listens on.

#ifndef KEYFOLD_NATIVE_LISTENER_H_
#define KEYFOLD_NATIVE_LISTENER_H_

#include <cstddef>
#include <cstdint>

namespace keyfold {

// BoundReceiveBuffers sets SO_RCVBUF to `bytes` on every TCP socket of this process that listens on `port`, from which
// the connections that it takes inherit it (tcp(7)). Linux doubles the figure. Returns how many there were.
[[nodiscard]] size_t BoundReceiveBuffers(uint16_t port, size_t bytes);

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_LISTENER_H_
