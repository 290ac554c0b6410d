/**
 * A line about one version of the root key: `[VERSION ]DIGITS`, where DIGITS is a wrapped key in hex. What was written of
 * the first version says no number, for there were no others.
 */
import { KeyfoldError } from '../errors.ts'

const PATTERN = /^(?:([1-9]\d{0,8}) )?((?:[0-9a-f]{2})+)$/

export const FIRST_ROOT_VERSION = 1

export interface RootKeyLine {
  readonly version: number
  readonly wrapped: Uint8Array
}

/** `where`: the file that it stands in. Errors: ROOT_KEY_INVALID. */
export function decodeRootKeyLine(text: string, where: string): RootKeyLine {
  const match = PATTERN.exec(text.trim())
  if (match === null) throw new KeyfoldError('ROOT_KEY_INVALID', `${where} was changed`)
  const [, version, digits = ''] = match
  return {
    version: version === undefined ? FIRST_ROOT_VERSION : Number(version),
    wrapped: Buffer.from(digits, 'hex'),
  }
}
