/**
 * Which implementation of frames this process uses. Streams run in processes of callers, which choose nothing at
 * start-up: it is decided with the first message, and a fallback is said by a warning of the process.
 */
import { libraryCrypto } from '../config.ts'
import type { Implementation } from './crypto.ts'
import { createNodeFrameCipher, type CreateFrameCipher } from './frame-cipher.ts'
import { createNativeFrameCipher } from './native-frame-cipher.ts'
import { loadNativeCrypto, type FrameCrypto } from './native.ts'

/** The addon has AES-256 only. */
const NATIVE_KEY_BYTES = 32

/** undefined: node:crypto. */
let chosen: { readonly native: FrameCrypto | undefined } | undefined

/**
 * Errors: NATIVE_UNAVAILABLE where KEYFOLD_CRYPTO asks for a native implementation and there is none, KEY_TABLE_FULL.
 */
export const createFrameCipher: CreateFrameCipher = (contentKey, messageId) => {
  chosen ??= { native: chooseNative() }
  return chosen.native === undefined || contentKey.length !== NATIVE_KEY_BYTES
    ? createNodeFrameCipher(contentKey, messageId)
    : createNativeFrameCipher(chosen.native, contentKey, messageId)
}

/** What seals and opens frames of AES-256 here. */
export function frameImplementation(): Implementation {
  chosen ??= { native: chooseNative() }
  return chosen.native?.implementation ?? 'node'
}

function chooseNative(): FrameCrypto | undefined {
  const wanted = libraryCrypto()
  if (wanted === 'node') return undefined
  try {
    return loadNativeCrypto(wanted === 'auto' || wanted === 'native' ? undefined : wanted)
  } catch (error) {
    if (wanted !== 'auto') throw error
    process.emitWarning(
      `keyfold's native core is not in use (${(error as Error).message}): files and streams run on node:crypto, ` +
        `slower. Install g++, make and python3 and run npm rebuild.`,
    )
    return undefined
  }
}
