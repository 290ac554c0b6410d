/**
 * A key's bytes, for the length of one call to a key store that has to send them to another system: an HSM, a
 * proxy, a remote KMS. Everywhere else a key stays behind its handle.
 */
import type { Crypto, KeyHandle } from '../crypto/crypto.ts'

const NO_AAD = new Uint8Array(0)

/**
 * Runs `use` on the 32 bytes of a key of the table, which are zeros when the promise settles. The table has no call
 * that reads a key out, and shall have none: it wraps under a key of a moment's life, which then opens bytes.
 */
export async function withKeyBytes<T>(
  crypto: Crypto,
  kind: 'key' | 'messageKey',
  key: KeyHandle,
  use: (bytes: Uint8Array) => Promise<T>,
): Promise<T> {
  const bytes = copyOf(crypto, kind, key)
  try {
    return await use(bytes)
  } finally {
    bytes.fill(0)
  }
}

function copyOf(crypto: Crypto, kind: 'key' | 'messageKey', key: KeyHandle): Uint8Array {
  const passing = crypto.generateKey()
  try {
    const wrapped =
      kind === 'key'
        ? crypto.wrapKey(passing, NO_AAD, key)
        : crypto.wrapMessageKey(passing, NO_AAD, key)
    return crypto.unwrapBytes(passing, NO_AAD, wrapped)
  } finally {
    crypto.releaseKey(passing)
  }
}
