/** The boundary to the addon. */
import { KeyfoldError } from '../errors.ts'
import type { Crypto, Implementation } from './crypto.ts'

export function loadNativeCrypto(_implementation?: Implementation): Crypto {
  throw new KeyfoldError('NATIVE_UNAVAILABLE', 'not built')
}
