/** Batches of every form, between all implementations, and everything that can be done to them. */
import { createDecipheriv, createCipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import type { Crypto, Suite } from '../../dist/crypto/crypto.js'
import {
  contextHash,
  createSharedKey,
  encodeElements,
  openMessages,
  openPacked,
  packedLayout,
  sealMessages,
  sealPacked,
} from './batch.ts'
import { implementations } from './implementations.ts'

const SIZES = [0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 1024, 16_384, 70_000]
const SUITES: readonly Suite[] = [1, 2]
const pairs = implementations.flatMap((sealer) =>
  implementations.map((opener) => [sealer, opener] as const),
)
const named = pairs.map(([a, b]) => [a.implementation, b.implementation, a, b] as const)
const each = implementations.map((crypto) => [crypto.implementation, crypto] as const)

function messagesOf(sizes: readonly number[]): Buffer[] {
  return sizes.map((size) => randomBytes(size))
}

describe.each(named)('what %s seals %s opens', (_sealer, _opener, sealer, opener) => {
  test.each([
    ['one', [64]],
    ['two', [64, 0]],
    ['63', Array<number>(63).fill(64)],
    ['64', Array<number>(64).fill(64)],
    ['65', Array<number>(65).fill(64)],
    ['1,000', Array<number>(1_000).fill(20)],
    ['every size', SIZES],
    ['mixed sizes', Array.from({ length: 150 }, (_, i) => (i * 7919) % 600)],
  ])('%s, in every form and suite, in one part or several', (_title, sizes) => {
    const messages = messagesOf(sizes)
    for (const suite of SUITES) {
      const shared = createSharedKey()
      const key = shared.sealing(sealer, suite)
      const sealing = { crypto: sealer, key, suite, keyEntry: shared.keyEntry }
      const opening = shared.opening(opener, suite)
      for (const parts of messages.length > 100 ? [1] : [1, 3, 64]) {
        const inline = sealMessages(sealing, 'inline', messages, parts)
        expect(inline.map((message) => message[0])).toEqual(messages.map(() => 0xe1))
        expect(openMessages(opener, opening, inline).plaintexts).toEqual(messages)
        const detached = sealMessages(sealing, 'detached', messages, parts)
        const keyEntries = [shared.keyEntry]
        expect(openMessages(opener, opening, detached, { keyEntries }).plaintexts).toEqual(messages)
        const packed = sealPacked(sealing, messages, parts)
        const { sealedOffset } = packedLayout(shared.keyEntry, messages, suite)
        expect(openPacked(opener, opening, packed, messages.length, sealedOffset)).toEqual(messages)
      }
      sealer.releaseKey(key)
      opener.releaseKey(opening)
    }
  })
})

describe.each(each)('%s', (_name, crypto) => {
  const prepare = (suite: Suite) => {
    const shared = createSharedKey()
    const key = shared.sealing(crypto, suite)
    return {
      shared,
      sealing: { crypto, key, suite, keyEntry: shared.keyEntry },
      opening: shared.opening(crypto, suite),
    }
  }

  test('writes what the formats say, as a reader of them on plain node:crypto finds', () => {
    const material = Buffer.alloc(32, 9)
    const raw = crypto.importKey(Buffer.from(material))
    const key = crypto.createMessageKey(raw, 1)
    const zeros = Buffer.alloc(64)
    const sealingKey = Buffer.from(
      hkdfSync('sha512', material, zeros, Buffer.from('keyfold/messages/v1/key\x01'), 32),
    )
    const commitment = Buffer.from(
      hkdfSync('sha512', material, zeros, 'keyfold/messages/v1/commitment', 32),
    )
    expect(Buffer.from(crypto.messageKeyCommitment(key))).toEqual(commitment)
    const keyEntry = Buffer.concat([commitment, Buffer.of(0, 1, 0xaa)])
    const plaintexts = [Buffer.from('first'), Buffer.alloc(0), randomBytes(300)]
    const sealed = sealMessages({ crypto, key, suite: 1, keyEntry }, 'inline', plaintexts)
    for (const [index, message] of sealed.entries()) {
      expect(message.subarray(0, 2 + keyEntry.length)).toEqual(
        Buffer.concat([Buffer.of(0xe1, 1), keyEntry]),
      )
      const nonce = message.subarray(2 + keyEntry.length, 26 + keyEntry.length)
      expect(nonce.readUInt32BE(20)).toBe(index)
      const kx = independentXaesKey(sealingKey, nonce.subarray(0, 12))
      const decipher = createDecipheriv('aes-256-gcm', kx, nonce.subarray(12), {
        authTagLength: 16,
      })
      decipher.setAAD(Buffer.concat([Buffer.of(1), commitment.subarray(0, 16), contextHash]))
      decipher.setAuthTag(message.subarray(message.length - 16))
      const body = message.subarray(26 + keyEntry.length, message.length - 16)
      expect(Buffer.concat([decipher.update(body), decipher.final()])).toEqual(plaintexts[index])
    }
  })

  test('never draws one R twice', () => {
    const { sealing, shared } = prepare(1)
    const seen = new Set<string>()
    for (let i = 0; i < 2_000; i++) {
      const [message] = sealMessages(sealing, 'detached', [Buffer.of(1)])
      seen.add((message as Buffer).toString('hex', 18, 38))
    }
    expect(seen.size).toBe(2_000)
    expect(shared.keyEntry.length).toBeGreaterThan(0)
  })

  test.each(SUITES)(
    'refuses every flipped byte of a message of suite %i, and only that message',
    (suite) => {
      const { sealing, opening, shared } = prepare(suite)
      const keyEntries = [shared.keyEntry]
      const plaintexts = messagesOf([33, 33, 33])
      for (const form of ['inline', 'detached'] as const) {
        const sealed = sealMessages(sealing, form, plaintexts)
        const middle = sealed[1] as Buffer
        for (let at = 0; at < middle.length; at++) {
          const flipped = Buffer.from(middle)
          flipped[at] = (flipped[at] as number) ^ 0x40
          const batch = [sealed[0] as Buffer, flipped, sealed[2] as Buffer]
          const { plaintexts: opened } = openMessages(crypto, opening, batch, { keyEntries })
          // Inside the wrapped key a flip names another entry: which key that is, is not the cipher's to say.
          const inEntry = form === 'inline' && at >= 2 && at < 2 + shared.keyEntry.length
          if (!inEntry) expect(opened[1], `${form}, byte ${at}`).toBeNull()
          expect([opened[0], opened[2]]).toEqual([plaintexts[0], plaintexts[2]])
        }
      }
    },
  )

  test.each(SUITES)('refuses every truncation of a message of suite %i', (suite) => {
    const { sealing, opening, shared } = prepare(suite)
    for (const form of ['inline', 'detached'] as const) {
      const [sealed] = sealMessages(sealing, form, messagesOf([20]))
      for (let length = 0; length < (sealed as Buffer).length; length++) {
        const cut = (sealed as Buffer).subarray(0, length)
        const { plaintexts } = openMessages(crypto, opening, [cut], {
          keyEntries: [shared.keyEntry],
        })
        expect(plaintexts, `${form}, ${length} bytes`).toEqual([null])
      }
    }
  })

  test('refuses another context', () => {
    const { sealing, opening } = prepare(1)
    const sealed = sealMessages(sealing, 'inline', messagesOf([64]))
    const { plaintexts, failures } = openMessages(crypto, opening, sealed, {
      hash: Buffer.alloc(32, 1),
    })
    expect(plaintexts).toEqual([null])
    expect([...failures]).toEqual([1])
  })

  test('refuses a message of suite 2 without its commitment, or with that of another', () => {
    const { sealing, opening, shared } = prepare(2)
    const [a, b] = sealMessages(sealing, 'inline', messagesOf([64, 64])) as [Buffer, Buffer]
    const stripped = Buffer.from(a.subarray(0, a.length - 32))
    stripped[1] = 1
    const swapped = Buffer.concat([a.subarray(0, a.length - 32), b.subarray(b.length - 32)])
    const openingOne = shared.opening(crypto, 1)
    expect(openMessages(crypto, openingOne, [stripped]).plaintexts).toEqual([null])
    expect(openMessages(crypto, opening, [stripped, swapped]).plaintexts).toEqual([null, null])
  })

  test.each(SUITES)('refuses every flipped byte of a packed batch of suite %i', (suite) => {
    const { sealing, opening, shared } = prepare(suite)
    const messages = messagesOf([10, 0, 25])
    const packed = sealPacked(sealing, messages)
    const { sealedOffset } = packedLayout(shared.keyEntry, messages, suite)
    for (let at = 0; at < packed.length; at++) {
      const flipped = Buffer.from(packed)
      flipped[at] = (flipped[at] as number) ^ 1
      let opened: (Buffer | null)[] | undefined
      try {
        opened = openPacked(crypto, opening, flipped, messages.length, sealedOffset)
      } catch (error) {
        // What no longer has the form of a packed batch says so.
        expect(error).toMatchObject({ code: 'MESSAGE_MALFORMED' })
      }
      // The key entry says which key it is; that a changed one does not open is shown with the envelope.
      if (at >= 2 && at < 2 + shared.keyEntry.length) continue
      // A damaged ciphertext fails alone; everything else fails the whole value.
      const damaged = opened?.filter((message) => message === null).length
      expect(opened === undefined || damaged === 1, `byte ${at}`).toBe(true)
    }
  })

  test('refuses every truncation of a packed batch', () => {
    const { sealing, opening } = prepare(1)
    const packed = sealPacked(sealing, messagesOf([10, 0, 25]))
    for (let length = 0; length < packed.length; length++) {
      let verified = false
      try {
        verified = crypto.verifyPacked(opening, contextHash, packed, 0, length)
      } catch {
        // Malformed is refused as well.
      }
      expect(verified, `${length} bytes`).toBe(false)
    }
  })

  test('refuses a packed batch with a message dropped, added or moved', () => {
    const { sealing, opening, shared } = prepare(1)
    const messages = messagesOf([32, 32, 32])
    const packed = sealPacked(sealing, messages)
    const { lengthsOffset, sealedOffset } = packedLayout(shared.keyEntry, messages, 1)
    const countOffset = lengthsOffset - 4
    const head = packed.subarray(0, countOffset)
    const lengths = packed.subarray(lengthsOffset, sealedOffset)
    const sealed = [0, 1, 2].map((i) =>
      packed.subarray(sealedOffset + 48 * i, sealedOffset + 48 * (i + 1)),
    )
    const tag = packed.subarray(packed.length - 16)
    const build = (order: readonly number[]): Buffer => {
      const count = Buffer.alloc(4)
      count.writeUInt32BE(order.length)
      return Buffer.concat([
        head,
        count,
        ...order.map(() => lengths.subarray(0, 4)),
        ...order.map((i) => sealed[i] as Buffer),
        tag,
      ])
    }
    expect(build([0, 1, 2])).toEqual(packed)
    for (const order of [
      [0, 1],
      [1, 2],
      [0, 1, 2, 2],
      [0, 2, 1],
      [1, 1, 2],
    ]) {
      expect(crypto.verifyPacked(opening, contextHash, build(order), 0, build(order).length)).toBe(
        false,
      )
    }
  })

  test('a ticket gives each part once, ends once, and only when all parts are sealed', () => {
    const { sealing, shared } = prepare(1)
    const messages = messagesOf([8, 8])
    const input = encodeElements(messages)
    const { lengthsOffset, sealedOffset, end } = packedLayout(shared.keyEntry, messages, 1)
    const packed = Buffer.alloc(end)
    const claim = (ticket: number, part: number) => ({
      ticket,
      part,
      input,
      inputOffset: 10 * part,
      inputEnd: 10 * part + 10,
      packed,
      packedOffset: 0,
      packedEnd: end,
      lengthsOffset,
      sealedOffset: sealedOffset + 24 * part,
    })
    const ticket = crypto.beginPacked(sealing.key, contextHash, 2, [0, 1])
    crypto.sealPackedPart(claim(ticket, 0))
    expect(() => crypto.sealPackedPart(claim(ticket, 0))).toThrow()
    expect(() => crypto.sealPackedPart(claim(ticket, 2))).toThrow()
    expect(() => crypto.finishPacked(ticket, shared.keyEntry, packed, 0, end)).toThrow()
    // The failed finish has ended it: nothing more is sealed under its R.
    expect(() => crypto.sealPackedPart(claim(ticket, 1))).toThrow()

    const second = crypto.beginPacked(sealing.key, contextHash, 2, [0, 1])
    crypto.sealPackedPart(claim(second, 1))
    crypto.sealPackedPart(claim(second, 0))
    crypto.finishPacked(second, shared.keyEntry, packed, 0, end)
    expect(() => crypto.finishPacked(second, shared.keyEntry, packed, 0, end)).toThrow()

    const third = crypto.beginPacked(sealing.key, contextHash, 2, [0, 1])
    crypto.abandonPacked(third)
    crypto.abandonPacked(third)
    expect(() => crypto.sealPackedPart(claim(third, 0))).toThrow()
    expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
    for (const firsts of [[1], [0, 0], [0, 2], [0, 1, 1]]) {
      expect(() => crypto.beginPacked(sealing.key, contextHash, 2, firsts)).toThrow()
    }
  })

  test('a part that fails half-way is never sealed again', () => {
    const { sealing, shared } = prepare(1)
    const messages = messagesOf([8])
    const { lengthsOffset, sealedOffset, end } = packedLayout(shared.keyEntry, messages, 1)
    const packed = Buffer.alloc(end)
    const ticket = crypto.beginPacked(sealing.key, contextHash, 1, [0])
    const claim = {
      ticket,
      part: 0,
      input: Buffer.from('\xa5wrong', 'latin1'),
      inputOffset: 0,
      inputEnd: 6,
      packed,
      packedOffset: 0,
      packedEnd: end,
      lengthsOffset,
      sealedOffset,
    }
    expect(() => crypto.sealPackedPart(claim)).toThrow()
    const input = encodeElements(messages)
    expect(() => crypto.sealPackedPart({ ...claim, input, inputEnd: input.length })).toThrow()
    expect(() => crypto.finishPacked(ticket, shared.keyEntry, packed, 0, end)).toThrow()
  })

  test('an unwrapped message key opens and never seals', () => {
    const { opening, shared } = prepare(1)
    const sealing = { crypto, key: opening, suite: 1, keyEntry: shared.keyEntry } as const
    expect(() => sealMessages(sealing, 'inline', [Buffer.of(1)])).toThrow()
    expect(() => crypto.beginPacked(opening, contextHash, 1, [0])).toThrow()
  })

  test('a key entry whose commitment is another key’s does not open', () => {
    const raw = crypto.generateKey()
    const messageKey = crypto.createMessageKey(raw, 1)
    const commitment = crypto.messageKeyCommitment(messageKey)
    for (let at = 0; at < 32; at++) {
      const flipped = Uint8Array.from(commitment)
      flipped[at] = (flipped[at] as number) ^ 0x80
      expect(() => crypto.openMessageKey(raw, 1, flipped)).toThrow('could not be decrypted')
    }
    crypto.releaseKey(crypto.openMessageKey(raw, 1, commitment))
  })

  test.each([
    ['a string in place of bytes', '\xa1a'],
    ['nil', '\xc0'],
    ['an extension', '\xd4\x01\x00'],
    ['a head without its length', '\xc5\x00'],
    ['fewer bytes than announced', '\xc4\x05abc'],
    ['4 GiB announced', '\xc6\xff\xff\xff\xffabc'],
    ['a byte too many', '\xc4\x01a\xc4'],
    ['nothing', ''],
  ])('refuses %s before it writes anything', (_title, text) => {
    const { sealing, opening } = prepare(1)
    const input = Buffer.from(text, 'latin1')
    const plan = { input, inputOffset: 0, inputEnd: input.length, messages: 1, nilAllowed: false }
    expect(() => crypto.planParts({ ...plan, overheadBytes: 0, partsMax: 1 })).toThrow('message')
    const output = Buffer.alloc(500)
    const range = { output, outputOffset: 0, outputEnd: 500 }
    const seal = {
      key: sealing.key,
      contextHash,
      form: 'detached',
      keyEntry: new Uint8Array(0),
    } as const
    expect(() => crypto.sealBatch({ ...seal, ...plan, ...range })).toThrow('message')
    const entryOf = new Uint16Array(1)
    const scan = { ...plan, contextHash, keyEntries: [], entryOf, partsMax: 1 }
    expect(() => crypto.scanMessages(scan)).toThrow('message')
    const open = { ...plan, ...range, keys: Float64Array.of(opening), entryOf, contextHash }
    expect(output.equals(Buffer.alloc(500))).toBe(true)
    expect(() => crypto.openBatch({ ...open, failures: new Uint8Array(1) })).toThrow('message')
  })

  test('re-wrapping replaces the key entry and leaves every other byte alone', () => {
    const { sealing, opening, shared } = prepare(1)
    const messages = messagesOf([5, 500])
    const sealed = sealMessages(sealing, 'inline', messages)
    const input = encodeElements(sealed)
    const longer = Buffer.concat([
      shared.keyEntry.subarray(0, 32),
      Buffer.of(0, 9),
      Buffer.from('new-entry'),
    ])
    const entryOf = new Uint16Array(2)
    const output = Buffer.alloc(input.length + 20)
    const written = crypto.replaceKeyEntries({
      keyEntries: [longer],
      entryOf,
      input,
      inputOffset: 0,
      inputEnd: input.length,
      messages: 2,
      output,
      outputOffset: 0,
      outputEnd: output.length,
    })
    const expected = sealed.map((message) =>
      Buffer.concat([message.subarray(0, 2), longer, message.subarray(2 + shared.keyEntry.length)]),
    )
    expect(output.subarray(0, written)).toEqual(encodeElements(expected))
    expect(openMessages(crypto, opening, expected).plaintexts).toEqual(messages)
  })

  test('finds more than 256 distinct key entries and refuses them', () => {
    const { sealing } = prepare(1)
    const messages = Array.from({ length: 257 }, (_, i) => {
      const keyEntry = Buffer.concat([
        createHash('sha256').update(`${i}`).digest(),
        Buffer.of(0, 1, 1),
      ])
      return sealMessages({ ...sealing, keyEntry }, 'inline', [Buffer.of(1)])[0] as Buffer
    })
    const scan = (batch: readonly Buffer[]) => {
      const input = encodeElements(batch)
      return crypto.scanMessages({
        input,
        inputOffset: 0,
        inputEnd: input.length,
        messages: batch.length,
        contextHash,
        keyEntries: [],
        entryOf: new Uint16Array(batch.length),
        partsMax: 1,
      })
    }
    expect(scan(messages.slice(0, 256)).entries.length).toBe(256)
    expect(() => scan(messages)).toThrow('256')
  })

  test('gives one cache id to one key entry, and others to other suites, entries and contexts', () => {
    const one = prepare(1)
    const two = prepare(2)
    const idsOf = (messages: readonly Buffer[], hash: Uint8Array): readonly string[] => {
      const input = encodeElements(messages)
      const scan = crypto.scanMessages({
        input,
        inputOffset: 0,
        inputEnd: input.length,
        messages: messages.length,
        contextHash: hash,
        keyEntries: [],
        entryOf: new Uint16Array(messages.length),
        partsMax: 1,
      })
      return scan.entries.map((entry) => entry.cacheId)
    }
    const a = sealMessages(one.sealing, 'inline', messagesOf([1, 2]))
    const b = sealMessages(two.sealing, 'inline', messagesOf([1]))
    const ids = [...idsOf([...a, ...b], contextHash), ...idsOf(a, Buffer.alloc(32))]
    expect(new Set(ids).size).toBe(3)
    const expected = createHash('sha256')
      .update(Buffer.of(1))
      .update(one.shared.keyEntry)
      .update(contextHash)
    expect(Buffer.from(ids[0] ?? '', 'latin1')).toEqual(expected.digest())
  })
})

/** c2sp.org/XAES-256-GCM, written again for this test. */
function independentXaesKey(key: Buffer, nonce12: Buffer): Buffer {
  const encrypt = (block: Buffer): Buffer => {
    const cipher = createCipheriv('aes-256-ecb', key, null).setAutoPadding(false)
    return Buffer.concat([cipher.update(block), cipher.final()])
  }
  const l = BigInt(`0x${encrypt(Buffer.alloc(16)).toString('hex')}`)
  const k1 = ((l << 1n) & ((1n << 128n) - 1n)) ^ (l >> 127n === 1n ? 0x87n : 0n)
  const half = (counter: number): Buffer => {
    const block = BigInt(
      `0x${Buffer.concat([Buffer.of(0, counter, 0x58, 0), nonce12]).toString('hex')}`,
    )
    return encrypt(Buffer.from((block ^ k1).toString(16).padStart(32, '0'), 'hex'))
  }
  return Buffer.concat([half(1), half(2)])
}

/** The table is one for the process: what a test leaves behind would hide a leak. */
test('the tests gave every ticket back', () => {
  for (const crypto of implementations as readonly Crypto[]) {
    expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
  }
})
