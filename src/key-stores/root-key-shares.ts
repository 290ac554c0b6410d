/** The root key in shares that several people keep: made, and put together again. */
import { createHash, randomBytes } from 'node:crypto'

import { interpolate, splitSecret } from '../crypto/secret-sharing.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeRootKeyShare, encodeRootKeyShare } from '../format/root-key-share.ts'
import { ROOT_KEY_SHARES_MAX } from '../limits.ts'

const SET_BYTES = 4
const sha256 = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()

/** A line for each. Leaves the root key to the caller. Throws CONFIG_INVALID. */
export function shareRootKey(
  rootKey: Uint8Array,
  rootVersion: number,
  { threshold, shares }: { readonly threshold: number; readonly shares: number },
): readonly string[] {
  if (threshold < 2 || threshold > shares || shares > ROOT_KEY_SHARES_MAX) {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      `2 to ${ROOT_KEY_SHARES_MAX} shares, and a threshold from 2 to as many`,
    )
  }
  const set = randomBytes(SET_BYTES)
  return splitSecret(rootKey, { threshold, shares }).map(({ x, y }) => {
    const line = encodeRootKeyShare({ rootVersion, set, threshold, point: x, value: y }, sha256)
    y.fill(0)
    return line
  })
}

/**
 * The root key, which the caller fills with zeros, of as many shares as it takes or more, one a line. Says of
 * each what is wrong with it, counted from 1. Throws CONFIG_INVALID.
 */
export function combineShares(text: string, rootVersion: number): Uint8Array {
  const lines = text.split('\n').map((line) => line.trim())
  const shares = lines
    .filter((line) => line !== '')
    .map((line, index) => {
      try {
        return decodeRootKeyShare(line, sha256)
      } catch (cause) {
        if (!(cause instanceof KeyfoldError)) throw cause
        throw invalid(`share ${index + 1}: ${cause.detail ?? ''}`)
      }
    })
  try {
    const [first] = shares
    if (first === undefined) throw invalid('no share was given')
    for (const [index, share] of shares.entries()) {
      const name = `share ${index + 1}`
      if (Buffer.compare(share.set, first.set) !== 0 || share.threshold !== first.threshold) {
        throw invalid(`${name} was not made together with share 1`)
      }
      const same = shares.findIndex(({ point }) => point === share.point)
      if (same !== index) throw invalid(`${name} is share ${same + 1} once more`)
      if (share.rootVersion !== rootVersion) {
        throw invalid(
          `${name} is of version ${share.rootVersion} of the root key, and needed is ${rootVersion}`,
        )
      }
    }
    if (shares.length < first.threshold) {
      throw invalid(`${shares.length} of ${first.threshold} shares that it takes were given`)
    }
    const points = shares.map(({ point, value }) => ({ x: point, y: value }))
    const enough = points.slice(0, first.threshold)
    for (const [index, extra] of points.slice(first.threshold).entries()) {
      if (Buffer.compare(interpolate(enough, extra.x), extra.y) === 0) continue
      throw invalid(`share ${first.threshold + index + 1} does not fit those before it`)
    }
    return interpolate(enough, 0)
  } finally {
    for (const { value } of shares) value.fill(0)
  }
}

function invalid(detail: string): KeyfoldError {
  return new KeyfoldError('CONFIG_INVALID', detail)
}
