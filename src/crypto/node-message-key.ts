/**
 * A message key on node:crypto: the data key with its suite, and what is derived from it once for all of its batches.
 * The portable implementation keeps one behind each handle; inline, detached and packed batches are sealed with it.
 */
import { createSecretKey, type KeyObject } from 'node:crypto'

import type { MessageSuite } from '../format/message.ts'
import type { Suite } from './crypto.ts'
import { createXaesKey, expandHkdf, extractHkdf, type XaesKey } from './xaes.ts'

const KEY_BYTES = 32
const LABEL_KEY = Buffer.from('keyfold/messages/v1/key')
const LABEL_COMMITMENT = Buffer.from('keyfold/messages/v1/commitment')

export interface MessageKey {
  readonly raw: KeyObject
  readonly suite: MessageSuite
  readonly seals: boolean
  readonly commitment: Buffer
  readonly sealing: XaesKey
}

export function deriveMessageKey(raw: KeyObject, suite: Suite, seals: boolean): MessageKey {
  const prk = extractHkdf(raw, new Uint8Array(0))
  const sealing = expandHkdf(prk, [LABEL_KEY, Buffer.of(suite)], KEY_BYTES)
  const commitment = expandHkdf(prk, [LABEL_COMMITMENT], KEY_BYTES)
  prk.fill(0)
  const key = createSecretKey(sealing)
  sealing.fill(0)
  return { raw, suite, seals, commitment, sealing: createXaesKey(key) }
}
