/**
 * In-process mode: the engine in the caller's own process. The plaintext never crosses a network; message keys come from
 * a keyfold server, or from a data directory of this machine's. Ciphertexts are the server's, and each opens the other's.
 *
 * What it needs (the addon, the pool) is loaded when it is opened, and not by whoever uses the client library alone.
 */
import { KeyfoldError } from '../errors.ts'
import type { InProcessKeyfold } from './keyfold.ts'
import type { OpenOptions } from './settings.ts'

/** Errors: CONFIG_INVALID, NATIVE_UNAVAILABLE; of a data directory also ROOT_KEY_INVALID, CATALOG_UNAVAILABLE. */
export async function openKeyfold(options: OpenOptions): Promise<InProcessKeyfold> {
  if ('server' in options && 'dataDirectory' in options) {
    throw new KeyfoldError('CONFIG_INVALID', 'give a server or a data directory, not both')
  }
  if ('server' in options) {
    const { openServerBacked } = await import('./server-backed.ts')
    return openServerBacked(options)
  }
  if (typeof options.dataDirectory !== 'string' || options.dataDirectory === '') {
    throw new KeyfoldError('CONFIG_INVALID', 'give a server or a data directory')
  }
  const { openLocal } = await import('./local.ts')
  return openLocal(options)
}
