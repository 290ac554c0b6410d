// What the processor can run, from CPUID and XCR0 (Intel SDM volume 1, chapters 13 and 15).

#include "cpu.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace keyfold {
namespace {

#if defined(__x86_64__)

// XCR0: SSE and AVX state, and the three parts of AVX-512 state, are saved by the operating system.
constexpr uint64_t kXcr0Avx512 = 0xe6;

constexpr uint32_t kLeaf1Ecx = bit_PCLMUL | bit_SSSE3 | bit_SSE4_1 | bit_AES;
constexpr uint32_t kLeaf7Ebx = bit_BMI2 | bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
constexpr uint32_t kLeaf7Ecx = bit_VAES | bit_VPCLMULQDQ;

uint64_t ReadXcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool SupportsAesni() {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kLeaf1Ecx) == kLeaf1Ecx;
}

bool SupportsVaes() {
  if (!SupportsAesni()) return false;
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0) return false;
  if ((ReadXcr0() & kXcr0Avx512) != kXcr0Avx512) return false;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (ebx & kLeaf7Ebx) == kLeaf7Ebx && (ecx & kLeaf7Ecx) == kLeaf7Ecx;
}

#else

bool SupportsAesni() { return false; }
bool SupportsVaes() { return false; }

#endif

}  // namespace

bool Supports(Implementation implementation) {
  switch (implementation) {
    case Implementation::kVaes: {
      static const bool supported = SupportsVaes();
      return supported;
    }
    case Implementation::kAesni: {
      static const bool supported = SupportsAesni();
      return supported;
    }
    case Implementation::kNone:
      return false;
  }
  return false;
}

Implementation BestImplementation() {
  if (Supports(Implementation::kVaes)) return Implementation::kVaes;
  if (Supports(Implementation::kAesni)) return Implementation::kAesni;
  return Implementation::kNone;
}

}  // namespace keyfold
