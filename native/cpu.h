// Which kernels this processor can run, and the choice among them, made once at start-up.

#ifndef KEYFOLD_NATIVE_CPU_H_
#define KEYFOLD_NATIVE_CPU_H_

namespace keyfold {

enum class Implementation { kNone, kAesni, kVaes };

// Supports reports whether the processor and the operating system (XCR0) can run `implementation`.
[[nodiscard]] bool Supports(Implementation implementation);

// BestImplementation returns kVaes, else kAesni, else kNone.
[[nodiscard]] Implementation BestImplementation();

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_CPU_H_
