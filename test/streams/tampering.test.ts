/** Files that were damaged, cut, put together or made up: refused, whatever was done to them, and at little cost. */
import { createHmac, randomBytes } from 'node:crypto'
import { finished } from 'node:stream/promises'
import { describe, expect, test } from 'vitest'

import {
  decryptBuffer,
  decryptStream,
  encryptBuffer,
  type Keyring,
  KeyfoldError,
  type DecryptFileOptions,
} from '../../dist/index.js'
import { decodeHeader, encodeHeaderBody, measureHeader } from '../../dist/format/encryption-sdk.js'
import { HEADER_BYTES_MAX } from '../../dist/limits.js'
import { aesPair, sdkEncrypt } from './sdk.ts'

const FRAME = 4_096
const { ours, theirs } = aesPair()
const ALLOW: DecryptFileOptions = { commitmentPolicy: 'REQUIRE_ENCRYPT_ALLOW_DECRYPT' }
const CODES = ['STREAM_MALFORMED', 'DECRYPT_FAILED', 'CONTEXT_INVALID', 'COMMITMENT_REQUIRED']

/** What left a stream before it ended or failed. */
async function released(
  chunks: readonly Uint8Array[],
  options: DecryptFileOptions = {},
): Promise<{ readonly bytes: Buffer; readonly error: unknown }> {
  const stream = decryptStream(ours, options)
  const parts: Buffer[] = []
  stream.on('data', (part: Buffer) => parts.push(part))
  const ended = finished(stream)
  for (const chunk of chunks) stream.write(chunk)
  stream.end()
  const error: unknown = await ended.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  return { bytes: Buffer.concat(parts), error }
}

async function codeOf(
  message: Uint8Array,
  options: DecryptFileOptions = {},
  keyring: Keyring = ours,
): Promise<string> {
  try {
    await decryptBuffer(keyring, message, options)
    return 'opened'
  } catch (error) {
    if (error instanceof KeyfoldError) return error.code
    throw error
  }
}

/** Frames of two, and a last one that is shorter. */
const PLAINTEXT = randomBytes(2 * 60 + 7)
const small = (suiteId: number): Promise<Buffer> =>
  sdkEncrypt(theirs, PLAINTEXT, { suiteId, frameLength: 60, encryptionContext: { a: 'b', ä: '' } })

describe.each([0x0478, 0x0578, 0x0178, 0x0378, 0x0078])('a small file of suite %i', (suiteId) => {
  test('is refused with any one byte flipped', async () => {
    const message = await small(suiteId)
    expect(await codeOf(message, ALLOW)).toBe('opened')
    for (let at = 0; at < message.length; at++) {
      const flipped = Buffer.from(message)
      flipped[at] = (flipped[at] as number) ^ (1 << (at % 8))
      expect([at, CODES.includes(await codeOf(flipped, ALLOW))]).toEqual([at, true])
    }
  })

  test('is refused cut at any byte, and what has left is a true beginning', async () => {
    const message = await small(suiteId)
    for (let end = 0; end < message.length; end++) {
      const { bytes, error } = await released([message.subarray(0, end)], ALLOW)
      expect(error).toMatchObject({ code: 'STREAM_MALFORMED' })
      expect(PLAINTEXT.subarray(0, bytes.length).equals(bytes)).toBe(true)
    }
  })

  test('is refused with anything behind it, or another one', async () => {
    const message = await small(suiteId)
    for (const more of [Buffer.alloc(1), message, await small(suiteId)]) {
      const { error } = await released([Buffer.concat([message, more])], ALLOW)
      expect(error).toMatchObject({ code: 'STREAM_MALFORMED' })
      expect((await released([message, more], ALLOW)).error).toMatchObject({
        code: 'STREAM_MALFORMED',
      })
    }
  })
})

test('a file of ours is refused with any one byte flipped, cut anywhere', async () => {
  const message = await encryptBuffer(ours, Buffer.from('x'), { context: { table: 'Aufträge' } })
  for (let at = 0; at < message.length; at++) {
    const flipped = Buffer.from(message)
    flipped[at] = (flipped[at] as number) ^ (1 << (at % 8))
    expect(CODES).toContain(await codeOf(flipped))
    expect(await codeOf(message.subarray(0, at))).toBe('STREAM_MALFORMED')
  }
})

describe('frames of a file', () => {
  const frames = async (): Promise<{
    readonly header: Buffer
    readonly frames: readonly Buffer[]
  }> => {
    const message = await encryptBuffer(ours, randomBytes(4 * FRAME + 5), { frameBytes: FRAME })
    const headerBytes = measureHeader(message)
    return {
      header: message.subarray(0, headerBytes),
      frames: [0, 1, 2, 3, 4].map((i) => {
        const start = headerBytes + i * (FRAME + 32)
        return message.subarray(start, i === 4 ? message.length : start + FRAME + 32)
      }),
    }
  }

  test.each([
    ['in another order', [0, 2, 1, 3, 4]],
    ['with one repeated', [0, 1, 1, 2, 3, 4]],
    ['with one left out', [0, 1, 3, 4]],
    ['with the first left out', [1, 2, 3, 4]],
    ['without the final one', [0, 1, 2, 3]],
    ['with the final one twice', [0, 1, 2, 3, 4, 4]],
    ['with the final one early', [0, 1, 4]],
    ['with one behind the final one', [0, 1, 2, 3, 4, 0]],
  ])('%s are refused', async (_, order) => {
    const { header, frames: all } = await frames()
    const message = Buffer.concat([header, ...order.map((i) => all[i] as Buffer)])
    expect(await codeOf(message)).toBe('STREAM_MALFORMED')
  })

  test('renumbered to look in order are refused by their tags', async () => {
    const { header, frames: all } = await frames()
    const renumbered = [0, 2, 1].map((from, i) => {
      const frame = Buffer.from(all[from] as Buffer)
      frame.writeUInt32BE(i + 1, 0)
      return frame
    })
    const message = Buffer.concat([header, ...renumbered, all[3] as Buffer, all[4] as Buffer])
    expect(await codeOf(message)).toBe('DECRYPT_FAILED')
  })

  test('of another file under the same wrapping key are refused', async () => {
    const [one, two] = [await frames(), await frames()]
    const mixed = [...one.frames.slice(0, 4), two.frames[4] as Buffer]
    expect(await codeOf(Buffer.concat([one.header, ...mixed]))).toBe('DECRYPT_FAILED')
  })
})

describe('a signed message', () => {
  const PIECES = 20
  const signed = (): Promise<Buffer> =>
    sdkEncrypt(theirs, randomBytes(PIECES * FRAME), { suiteId: 0x0578, frameLength: FRAME })

  test('with a signature of another one releases no byte, and no header', async () => {
    const [one, two] = [await signed(), await signed()]
    // A DER signature is now and then some bytes shorter; the footer is all that is behind the final frame, of no bytes.
    const footer = (message: Buffer): Buffer => {
      const at = measureHeader(message) + PIECES * (FRAME + 32) + 40
      expect(message.readUInt16BE(at)).toBe(message.length - at - 2)
      return message.subarray(at)
    }
    const body = one.subarray(0, one.length - footer(one).length)
    let headers = 0
    const options = { onHeader: () => void headers++ }
    const forged = await released([body, footer(two)], options)
    expect(forged.error).toMatchObject({ code: 'DECRYPT_FAILED', detail: 'the signature' })
    expect([forged.bytes.length, headers]).toEqual([0, 0])
    const cut = await released([body], options)
    expect(cut.error).toMatchObject({ code: 'STREAM_MALFORMED' })
    expect([cut.bytes.length, headers]).toEqual([0, 0])
    const whole = await released([body, footer(one)], options)
    expect(whole.error).toBe(undefined)
    expect([whole.bytes.length, headers]).toEqual([PIECES * FRAME, 1])
  })

  test('longer than may be held is refused by that limit, and one as long is not', async () => {
    const message = await signed()
    const over = await released([message], { signedBytesMax: PIECES * FRAME - 1 })
    expect(over.error).toMatchObject({ code: 'LIMIT_EXCEEDED' })
    expect(over.bytes).toHaveLength(0)
    expect((await released([message], { signedBytesMax: PIECES * FRAME })).error).toBe(undefined)
  })

  test('whose public key was taken out of the header, or an unsigned one that has one, is refused', async () => {
    const { header } = decodeHeader(
      (await signed()).subarray(0, measureHeader(await signed())) as Uint8Array,
    )
    const stripped = encodeHeaderBody({ ...header, context: new Uint8Array(0) })
    expect(await codeOf(Buffer.concat([stripped, Buffer.alloc(16)]))).toBe('STREAM_MALFORMED')
    const message = await encryptBuffer(ours, Buffer.from('x'))
    const plain = decodeHeader(message.subarray(0, measureHeader(message))).header
    const added = encodeHeaderBody({ ...plain, context: header.context })
    expect(await codeOf(Buffer.concat([added, Buffer.alloc(16)]))).toBe('STREAM_MALFORMED')
  })
})

describe('a header that somebody made up', () => {
  /** Fails the test where it is asked: nothing of these may reach a key. */
  const untouched: Keyring = {
    generateDataKey: () => Promise.reject(new Error('asked to generate')),
    wrapDataKey: () => Promise.reject(new Error('asked to wrap')),
    unwrapDataKey: () => Promise.reject(new Error('asked to unwrap')),
  }
  const start = Buffer.concat([Buffer.from('020478', 'hex'), randomBytes(32)])
  const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff])
  const edk = (bytes: number): Buffer =>
    Buffer.concat([u16(0), u16(0), u16(bytes), Buffer.alloc(bytes)])
  const tail = (frameLength: number): Buffer => {
    const bytes = Buffer.alloc(1 + 4 + 32 + 16)
    bytes[0] = 2
    bytes.writeUInt32BE(frameLength, 1)
    return bytes
  }

  test.each([
    ['65,535 encrypted data keys', [u16(0), u16(65_535)]],
    ['no encrypted data key', [u16(0), u16(0)]],
    ['nine encrypted data keys', [u16(0), u16(9)]],
    ['a context of 65,535 bytes', [u16(65_535)]],
    ['a context of one byte more than is allowed', [u16(8_193)]],
    ['eight encrypted data keys of 65,535 bytes', [u16(0), u16(8), edk(65_535), edk(65_535)]],
    ['frames of 4 GiB', [u16(0), u16(1), edk(1), tail(0xffffffff)]],
    ['frames of 16 MiB and a byte', [u16(0), u16(1), edk(1), tail(2 ** 24 + 1)]],
    ['frames of no bytes', [u16(0), u16(1), edk(1), tail(0)]],
    ['a context of no pairs with a count', [u16(2), u16(0), u16(1), edk(1), tail(FRAME)]],
    ['a context of more pairs than bytes', [u16(2), u16(65_535), u16(1), edk(1), tail(FRAME)]],
  ])(
    'with %s is refused before a key is asked for, and before more of it is read',
    async (_, parts) => {
      const message = Buffer.concat([start, ...parts])
      expect(['STREAM_MALFORMED', 'CONTEXT_INVALID']).toContain(
        await codeOf(message, {}, untouched),
      )
      // Nothing behind it is waited for.
      const stream = decryptStream(untouched)
      stream.write(message)
      await expect(finished(stream)).rejects.toMatchObject({
        code: expect.stringMatching(/STREAM_MALFORMED|CONTEXT_INVALID/) as string,
      })
    },
  )

  test('in base64 is told apart', async () => {
    const message = await encryptBuffer(ours, Buffer.from('x'))
    await expect(
      decryptBuffer(ours, Buffer.from(message.toString('base64'))),
    ).rejects.toMatchObject({ detail: expect.stringContaining('base64') as string })
  })

  test('is not asked for again with each byte that comes', () => {
    const message = Buffer.concat([start, u16(8_000), Buffer.alloc(8_000), u16(1), edk(6_000)])
    let measured = 0
    for (let end = 0; end < message.length;) {
      const needed = measureHeader(message.subarray(0, end))
      expect(needed).toBeGreaterThan(end)
      expect(needed).toBeLessThan(HEADER_BYTES_MAX)
      measured++
      end = needed
    }
    expect(measured).toBeLessThan(12)
  })
})

test('a file whose data key is another, committed to by nobody, does not get as far as its frames', async () => {
  const message = await encryptBuffer(ours, Buffer.from('x'))
  const other: Keyring = {
    ...(ours as object),
    generateDataKey: () => Promise.reject(new Error('asked to generate')),
    wrapDataKey: () => Promise.reject(new Error('asked to wrap')),
    unwrapDataKey: () =>
      Promise.resolve(createHmac('sha256', 'another').update('data key').digest()),
  }
  await expect(decryptBuffer(other, message)).rejects.toMatchObject({
    code: 'DECRYPT_FAILED',
    detail: undefined,
  })
})
