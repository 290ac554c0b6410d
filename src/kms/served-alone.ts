/**
 * Keys whose owners would rather have them used than be sure: by a tag, such a key is served for so many seconds after a
 * node has lost sight of the catalog. For that long whoever disables it may not rely on that node.
 */
import { SERVED_ALONE_SECONDS_MAX } from '../limits.ts'
import type { KmsKey } from './kms-key.ts'

export const SERVED_ALONE_TAG = 'keyfold:served-alone-seconds'

/** undefined: it is no whole number of seconds within the bound. */
export function parseServedAloneSeconds(text: string): number | undefined {
  const seconds = Number(text)
  return /^\d{1,6}$/.test(text) && seconds <= SERVED_ALONE_SECONDS_MAX ? seconds : undefined
}

export function servedAloneMs({ tags }: Pick<KmsKey, 'tags'>): number {
  return 1_000 * (parseServedAloneSeconds(tags.get(SERVED_ALONE_TAG) ?? '') ?? 0)
}
