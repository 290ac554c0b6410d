/**
 * Every implementation of Crypto that this machine can run; only node:crypto where KEYFOLD_CRYPTO=node asks for it.
 * A machine with a built addon and the instructions for it must run the addon: that it does not is a failure.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import type { Crypto, Implementation } from '../../dist/crypto/crypto.js'
import { loadNativeCrypto } from '../../dist/crypto/native.js'
import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'

const ROOT = join(import.meta.dirname, '../..')
export const nodeOnly = process.env['KEYFOLD_CRYPTO'] === 'node'
export const addonBuilt = existsSync(join(ROOT, 'build/Release/keyfold.node'))

/** What /proc/cpuinfo promises: an authority that is not our own detection. */
export function expectedImplementations(): readonly Implementation[] {
  if (nodeOnly || !addonBuilt) return ['node']
  const flags = new Set(
    /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '),
  )
  const has = (...names: readonly string[]): boolean => names.every((name) => flags.has(name))
  return [
    'node',
    ...(has('aes', 'pclmulqdq', 'ssse3') ? (['aesni'] as const) : []),
    ...(has('vaes', 'vpclmulqdq', 'avx512f', 'avx512bw', 'avx512vl', 'avx512dq')
      ? (['vaes'] as const)
      : []),
  ]
}

export const implementations: readonly Crypto[] = expectedImplementations().map((name) =>
  name === 'node' ? createNodeCrypto() : loadNativeCrypto(name),
)
