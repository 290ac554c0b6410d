// The implementations that GetAesGcm chooses from. Call them only where Supports() says that they can run.

#ifndef KEYFOLD_NATIVE_AES_GCM_INTERNAL_H_
#define KEYFOLD_NATIVE_AES_GCM_INTERNAL_H_

#include "aes_gcm.h"

namespace keyfold {

extern const AesGcm kAesGcmVaes;
extern const AesGcm kAesGcmAesni;

}  // namespace keyfold

#endif  // KEYFOLD_NATIVE_AES_GCM_INTERNAL_H_
