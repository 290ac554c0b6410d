/** Batches for tests: MessagePack elements made and read by msgpackr, an encoder that is not ours. */
import { randomBytes } from 'node:crypto'
import { Packr, Unpackr } from 'msgpackr'

import type { Crypto, KeyHandle, Part, Suite } from '../../dist/crypto/crypto.js'

const packr = new Packr({ useRecords: false })
const unpackr = new Unpackr({ useRecords: false })

export const contextHash = Buffer.alloc(32, 0xc7)

export function encodeElements(messages: readonly (Uint8Array | null)[]): Buffer {
  return Buffer.concat(
    messages.map((message) => packr.pack(message === null ? null : Buffer.from(message))),
  )
}

export function decodeElements(bytes: Uint8Array, count: number): (Buffer | null)[] {
  const head = Buffer.alloc(5)
  head[0] = 0xdd
  head.writeUInt32BE(count, 1)
  return unpackr.unpack(Buffer.concat([head, bytes])) as (Buffer | null)[]
}

/** One raw key known to several implementations, with what each of them makes of it. */
export interface SharedKey {
  readonly keyEntry: Buffer
  sealing(crypto: Crypto, suite: Suite): KeyHandle
  opening(crypto: Crypto, suite: Suite): KeyHandle
}

export function createSharedKey(): SharedKey {
  const material = randomBytes(32)
  const rawOf = (crypto: Crypto): KeyHandle => crypto.importKey(Buffer.from(material))
  const commitmentOf = (crypto: Crypto, suite: Suite): Uint8Array => {
    const key = sealing(crypto, suite)
    const commitment = crypto.messageKeyCommitment(key)
    crypto.releaseKey(key)
    return commitment
  }
  const sealing = (crypto: Crypto, suite: Suite): KeyHandle => {
    const raw = rawOf(crypto)
    const key = crypto.createMessageKey(raw, suite)
    crypto.releaseKey(raw)
    return key
  }
  let keyEntry: Buffer | undefined
  return {
    // The commitment does not depend on the suite, so one entry serves both.
    get keyEntry() {
      if (keyEntry === undefined) throw new Error('seal first')
      return keyEntry
    },
    sealing: (crypto, suite) => {
      keyEntry ??= Buffer.concat([
        commitmentOf(crypto, suite),
        Buffer.of(0, 5),
        Buffer.from('entry'),
      ])
      return sealing(crypto, suite)
    },
    opening: (crypto, suite) => {
      const raw = rawOf(crypto)
      const key = crypto.openMessageKey(raw, suite, commitmentOf(crypto, suite))
      crypto.releaseKey(raw)
      return key
    },
  }
}

export const sealOverhead = (suite: Suite): number => (suite === 2 ? 48 : 16)

export interface Sealing {
  readonly crypto: Crypto
  readonly key: KeyHandle
  readonly suite: Suite
  readonly keyEntry: Uint8Array
}

/** Seals inline or detached, each of `parts` slices by a call of its own, and returns the messages. */
export function sealMessages(
  { crypto, key, suite, keyEntry }: Sealing,
  form: 'inline' | 'detached',
  messages: readonly Uint8Array[],
  partsMax = 1,
): Buffer[] {
  const input = encodeElements(messages)
  const reference = form === 'inline' ? keyEntry.length : 16
  const parts = crypto.planParts({
    input,
    inputOffset: 0,
    inputEnd: input.length,
    messages: messages.length,
    overheadBytes: 2 + reference + 24 + sealOverhead(suite),
    nilAllowed: false,
    partsMax,
  })
  const output = Buffer.alloc(sum(parts, 'outputBytes'))
  let offset = 0
  for (const part of parts) {
    const written = crypto.sealBatch({
      key,
      contextHash,
      form,
      keyEntry: form === 'inline' ? keyEntry : new Uint8Array(0),
      nilAllowed: false,
      input,
      inputOffset: part.inputOffset,
      inputEnd: part.inputEnd,
      messages: part.messages,
      output,
      outputOffset: offset,
      outputEnd: offset + part.outputBytes,
    })
    if (written !== part.outputBytes) throw new Error('the plan was wrong')
    offset += written
  }
  return decodeElements(output, messages.length) as Buffer[]
}

/** Opens with one key, whatever entries are named; null where a message did not open. */
export function openMessages(
  crypto: Crypto,
  key: KeyHandle,
  messages: readonly Uint8Array[],
  options: { readonly keyEntries?: readonly Uint8Array[]; readonly hash?: Uint8Array } = {},
): { readonly plaintexts: (Buffer | null)[]; readonly failures: Uint8Array } {
  const { keyEntries = [], hash = contextHash } = options
  const input = encodeElements(messages)
  const entryOf = new Uint16Array(messages.length)
  const scan = crypto.scanMessages({
    input,
    inputOffset: 0,
    inputEnd: input.length,
    messages: messages.length,
    contextHash: hash,
    keyEntries,
    entryOf,
    partsMax: 1,
  })
  const output = Buffer.alloc(sum(scan.parts, 'outputBytes'))
  const failures = new Uint8Array(messages.length)
  const written = crypto.openBatch({
    keys: Float64Array.from(scan.entries, () => key),
    entryOf,
    contextHash: hash,
    input,
    inputOffset: 0,
    inputEnd: input.length,
    messages: messages.length,
    failures,
    output,
    outputOffset: 0,
    outputEnd: output.length,
  })
  return { plaintexts: decodeElements(output.subarray(0, written), messages.length), failures }
}

/** Where the fields of a packed value are. */
export function packedLayout(keyEntry: Uint8Array, messages: readonly Uint8Array[], suite: Suite) {
  const lengthsOffset = 2 + keyEntry.length + 20 + 4
  const sealedOffset = lengthsOffset + 4 * messages.length
  const sealed = messages.reduce(
    (total, message) => total + message.length + sealOverhead(suite),
    0,
  )
  return { lengthsOffset, sealedOffset, end: sealedOffset + sealed + 16 }
}

export function sealPacked(
  { crypto, key, suite, keyEntry }: Sealing,
  messages: readonly Uint8Array[],
  partsMax = 1,
): Buffer {
  const input = encodeElements(messages)
  const parts = crypto.planParts({
    input,
    inputOffset: 0,
    inputEnd: input.length,
    messages: messages.length,
    overheadBytes: 0,
    nilAllowed: false,
    partsMax,
  })
  const { lengthsOffset, sealedOffset, end } = packedLayout(keyEntry, messages, suite)
  const packed = Buffer.alloc(end)
  const ticket = crypto.beginPacked(
    key,
    contextHash,
    messages.length,
    parts.map((part) => part.firstMessage),
  )
  let at = sealedOffset
  const claims = parts.map((part, index) => {
    const claim = {
      ticket,
      part: index,
      input,
      inputOffset: part.inputOffset,
      inputEnd: part.inputEnd,
      packed,
      packedOffset: 0,
      packedEnd: end,
      lengthsOffset,
      sealedOffset: at,
    }
    at += part.plaintextBytes + part.messages * sealOverhead(suite)
    return claim
  })
  // Workers come in any order.
  for (const claim of claims.reverse()) crypto.sealPackedPart(claim)
  crypto.finishPacked(ticket, keyEntry, packed, 0, end)
  return packed
}

/** The plaintexts, or undefined where the batch tag does not fit. */
export function openPacked(
  crypto: Crypto,
  key: KeyHandle,
  packed: Uint8Array,
  count: number,
  sealedOffset: number,
  hash: Uint8Array = contextHash,
): (Buffer | null)[] | undefined {
  if (!crypto.verifyPacked(key, hash, packed, 0, packed.length)) return undefined
  const output = Buffer.alloc(packed.length + 5 * count)
  const written = crypto.openPackedPart({
    key,
    contextHash: hash,
    packed,
    packedOffset: 0,
    packedEnd: packed.length,
    firstMessage: 0,
    messages: count,
    sealedOffset,
    failures: new Uint8Array(count),
    output,
    outputOffset: 0,
    outputEnd: output.length,
  })
  return decodeElements(output.subarray(0, written), count)
}

function sum(parts: readonly Part[], field: 'outputBytes'): number {
  return parts.reduce((total, part) => total + part[field], 0)
}
