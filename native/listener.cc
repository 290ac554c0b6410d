#include "listener.h"

#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>

namespace keyfold {
namespace {

bool Listens(int fd) {
  int listens = 0;
  socklen_t len = sizeof(listens);
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && listens != 0;
}

bool HasPort(int fd, uint16_t port) {
  sockaddr_storage address{};
  socklen_t len = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &len) != 0) return false;
  if (address.ss_family == AF_INET) {
    sockaddr_in ipv4{};
    std::memcpy(&ipv4, &address, sizeof(ipv4));
    return ntohs(ipv4.sin_port) == port;
  }
  if (address.ss_family != AF_INET6) return false;
  sockaddr_in6 ipv6{};
  std::memcpy(&ipv6, &address, sizeof(ipv6));
  return ntohs(ipv6.sin6_port) == port;
}

}  // namespace

size_t BoundReceiveBuffers(uint16_t port, size_t bytes) {
  DIR* open_files = opendir("/dev/fd");
  if (open_files == nullptr) return 0;
  size_t bounded = 0;
  const int value = static_cast<int>(bytes);
  while (const dirent* entry = readdir(open_files)) {
    // `.` and `..` read as 0, which is not a listening socket of ours.
    const int fd = std::atoi(entry->d_name);
    if (!Listens(fd) || !HasPort(fd, port)) continue;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, sizeof(value)) == 0) bounded++;
  }
  closedir(open_files);
  return bounded;
}

}  // namespace keyfold
