/**
 * Which implementation of Crypto this process uses: decided once, at start-up, and said aloud where it is not the
 * fast one.
 */
import type { Config } from '../config.ts'
import { KeyfoldError } from '../errors.ts'
import type { Crypto } from './crypto.ts'
import { loadNativeCrypto } from './native.ts'
import { createNodeCrypto } from './node-crypto.ts'

/**
 * Errors: NATIVE_UNAVAILABLE where a native one was asked for and there is none; CONFIG_INVALID where keys have to be
 * locked in memory and are not, which only a native one can do.
 */
export function chooseCrypto(
  wanted: Config['crypto'],
  options: {
    readonly memoryLock: Config['memoryLock']
    readonly log: (message: string) => void
  },
): Crypto {
  const locks = options.memoryLock === 'require'
  if (wanted === 'node') {
    if (locks) throw new KeyfoldError('CONFIG_INVALID', 'memoryLock: node:crypto locks no keys')
    return createNodeCrypto()
  }
  try {
    const crypto = loadNativeCrypto(wanted === 'auto' || wanted === 'native' ? undefined : wanted)
    checkMemoryLock(crypto, options)
    return crypto
  } catch (error) {
    if (wanted !== 'auto' || locks) throw error
    options.log(
      `THE NATIVE CORE IS NOT IN USE (${(error as Error).message}). keyfold runs on node:crypto: correct, but many ` +
        `times slower, and keys are not locked in memory. Install g++, make and python3 and run npm rebuild.`,
    )
    return createNodeCrypto()
  }
}

function checkMemoryLock(
  crypto: Crypto,
  {
    memoryLock,
    log,
  }: { readonly memoryLock: Config['memoryLock']; readonly log: (m: string) => void },
): void {
  if (crypto.keyTableUsage().locked) return
  const remedy = 'raise the limit of locked memory (ulimit -l, LimitMEMLOCK) to 8 MiB'
  if (memoryLock === 'require') {
    throw new KeyfoldError('CONFIG_INVALID', `keys cannot be locked in memory: ${remedy}`)
  }
  log(`keys are not locked in memory and may reach swap: ${remedy}`)
}
