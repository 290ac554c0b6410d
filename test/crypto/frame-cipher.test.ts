/** Frames: every implementation against the AWS Encryption SDK, against damage, and against what it must refuse. */
import { randomBytes } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, test } from 'vitest'

import { createFrameCipher, frameImplementation } from '../../dist/crypto/choose-frame-cipher.js'
import { createNodeFrameCipher, type CreateFrameCipher } from '../../dist/crypto/frame-cipher.js'
import { createNativeFrameCipher } from '../../dist/crypto/native-frame-cipher.js'
import { loadNativeCrypto } from '../../dist/crypto/native.js'
import {
  FINAL_FRAME_OVERHEAD_BYTES,
  FRAME_OVERHEAD_BYTES,
  framePlace,
  overheadBytes,
  type FrameRun,
} from '../../dist/format/encryption-sdk-frames.js'
import { FRAME_BYTES_READ_MAX } from '../../dist/limits.js'
import { MessageOpener } from '../../dist/streams/message-opener.js'
import { MessageSealer } from '../../dist/streams/message-sealer.js'
import { aesPair, sdkDecrypt, sdkEncrypt } from '../streams/sdk.ts'
import { expectedImplementations } from './implementations.ts'

const FRAME = 4_096
const { ours, theirs } = aesPair()
const names = expectedImplementations()
const natives = names.filter((name) => name !== 'node')
const best = names.at(-1)

function creatorOf(name: string): CreateFrameCipher {
  if (name === 'node') return createNodeFrameCipher
  const native = loadNativeCrypto(name as (typeof names)[number])
  return (contentKey, messageId) => createNativeFrameCipher(native, contentKey, messageId)
}

const conversions = names.map((name) => [name, creatorOf(name)] as const)

test('files and streams run on the best implementation that this machine has', () => {
  expect(frameImplementation()).toBe(best)
})

test.runIf(natives.length > 0)('only keys of 32 bytes are taken by the addon', () => {
  const usage = (): number => loadNativeCrypto().keyTableUsage().slotsUsed
  const before = usage()
  const ciphers = [16, 24, 32].map((bytes) =>
    createFrameCipher(randomBytes(bytes), randomBytes(16)),
  )
  expect(usage()).toBe(before + 1)
  for (const cipher of ciphers) cipher.wipe()
  expect(usage()).toBe(before)
})

const LENGTHS = [0, 1, 15, 16, FRAME - 1, FRAME, FRAME + 1, 5 * FRAME, 70_001, 2 ** 20, 1_234_567]

describe.each(conversions)('%s', (_name, createCipher) => {
  test.each(LENGTHS)('seals %i bytes for the SDK and opens those of the SDK', async (bytes) => {
    const plaintext = randomBytes(bytes)
    const parts: Uint8Array[] = []
    const emit = (part: Uint8Array): undefined => void parts.push(part)
    const sealer = new MessageSealer(ours, { frameBytes: FRAME }, emit, { createCipher })
    await sealer.write(plaintext)
    await sealer.end()
    const found = await sdkDecrypt(theirs, Buffer.concat(parts))
    expect(found.plaintext.equals(plaintext)).toBe(true)
    for (const suiteId of [0x0478, 0x0578]) {
      // The SDK takes any length for a frame, also one that is no multiple of anything.
      for (const frameLength of [FRAME, 65_536, 4_099]) {
        parts.length = 0
        const message = await sdkEncrypt(theirs, plaintext, { suiteId, frameLength })
        const opener = new MessageOpener(ours, {}, emit, { createCipher })
        await opener.write(message)
        await opener.end()
        expect(Buffer.concat(parts).equals(plaintext)).toBe(true)
      }
    }
  })

  const RUN: FrameRun = { frameLength: 50, firstSequence: 7, frames: 3, final: true }
  const plaintext = randomBytes(2 * RUN.frameLength + 20)
  const contentKey = randomBytes(32)
  const messageId = randomBytes(32)
  const create = (): ReturnType<CreateFrameCipher> =>
    createCipher(Buffer.from(contentKey), messageId)

  test('opens no run with one bit flipped in nonce, ciphertext or tag, and leaves zeros', () => {
    const cipher = create()
    const wire = Buffer.from(cipher.sealFrames(RUN, plaintext) as Uint8Array)
    const places = [0, 1, 2].map((i) => framePlace(RUN, i, plaintext.length))
    let flips = 0
    for (const { ivAt, ciphertextAt, plaintextBytes, kind } of places) {
      for (let at = ivAt; at < ciphertextAt + plaintextBytes + 16; at++) {
        // The length before the last ciphertext is the scanner's: the AAD has it as the run says.
        if (kind === 'final' && at >= ivAt + 12 && at < ciphertextAt) continue
        const damaged = Buffer.from(wire)
        damaged[at] = (damaged[at] as number) ^ (1 << (at % 8))
        const into = Buffer.alloc(plaintext.length, 0xaa)
        expect(() => cipher.openFrames(RUN, damaged, into)).toThrow(
          expect.objectContaining({ code: 'DECRYPT_FAILED' }),
        )
        expect(into.equals(Buffer.alloc(plaintext.length))).toBe(true)
        flips++
      }
    }
    expect(flips).toBe(3 * (12 + 16) + plaintext.length)
    expect(cipher.openFrames(RUN, wire)).toEqual(plaintext)
  })

  test('opens no run as one of another number, kind, length, message or key', () => {
    const cipher = create()
    const wire = Buffer.from(cipher.sealFrames(RUN, plaintext) as Uint8Array)
    const refused = (run: FrameRun, bytes: Uint8Array, by = cipher): void => {
      expect(() => by.openFrames(run, bytes)).toThrow(
        expect.objectContaining({ code: 'DECRYPT_FAILED' }),
      )
    }
    refused({ ...RUN, firstSequence: 8 }, wire)
    const first = wire.subarray(0, 50 + FRAME_OVERHEAD_BYTES)
    expect(cipher.openFrames({ ...RUN, frames: 1, final: false }, first)).toEqual(
      plaintext.subarray(0, 50),
    )
    refused(
      { ...RUN, frames: 1, frameLength: 50 },
      Buffer.concat([wire.subarray(0, 4), first, wire.subarray(0, 4)]),
    )
    const last = wire.subarray(-20 - FINAL_FRAME_OVERHEAD_BYTES)
    expect(cipher.openFrames({ ...RUN, firstSequence: 9, frames: 1 }, last)).toEqual(
      plaintext.subarray(100),
    )
    refused({ ...RUN, firstSequence: 9, frames: 1 }, last.subarray(1))
    refused(RUN, wire, createCipher(Buffer.from(contentKey), randomBytes(32)))
    refused(RUN, wire, createCipher(randomBytes(32), messageId))
  })

  test('names the first frame that does not verify', () => {
    const cipher = create()
    const wire = Buffer.from(cipher.sealFrames(RUN, plaintext) as Uint8Array)
    for (const index of [1, 2]) {
      const at = framePlace(RUN, index, plaintext.length).ciphertextAt
      wire[at] = (wire[at] as number) ^ 1
    }
    expect(() => cipher.openFrames(RUN, wire)).toThrow('frame 8')
  })

  test('writes where it is told, no byte further, and nothing into less', () => {
    const cipher = create()
    const fresh = cipher.sealFrames(RUN, plaintext) as Uint8Array
    const memory = Buffer.alloc(fresh.length + 9, 0xaa)
    const wire = cipher.sealFrames(RUN, plaintext, memory.subarray(3)) as Uint8Array
    expect(memory.subarray(3, -6).equals(fresh)).toBe(true)
    expect(wire.byteOffset).toBe(memory.byteOffset + 3)
    expect(memory.subarray(-6).equals(Buffer.alloc(6, 0xaa))).toBe(true)
    expect(() => cipher.sealFrames(RUN, plaintext, memory.subarray(0, fresh.length - 1))).toThrow()
    expect(() => cipher.openFrames(RUN, fresh, Buffer.alloc(plaintext.length - 1))).toThrow()
  })

  test('has no key once it was wiped, and may be wiped again', () => {
    const handed = Buffer.from(contentKey)
    const cipher = createCipher(handed, messageId)
    cipher.wipe()
    cipher.wipe()
    expect(handed.equals(Buffer.alloc(32))).toBe(true)
    expect(() => cipher.sealFrames(RUN, plaintext)).toThrow('wiped')
    expect(() =>
      cipher.openFrames(RUN, Buffer.alloc(plaintext.length + overheadBytes(RUN))),
    ).toThrow('wiped')
  })
})

describe.each(natives)('the addon (%s)', (name) => {
  const native = loadNativeCrypto(name)
  const messageId = randomBytes(32)

  test('holds a key in its table until the cipher is wiped, and zeros where it came from', () => {
    const before = native.keyTableUsage().slotsUsed
    const contentKey = randomBytes(32)
    const cipher = createNativeFrameCipher(native, contentKey, messageId)
    expect(contentKey.equals(Buffer.alloc(32))).toBe(true)
    expect(native.keyTableUsage().slotsUsed).toBe(before + 1)
    cipher.wipe()
    expect(native.keyTableUsage().slotsUsed).toBe(before)
  })

  test('lets a key go that nobody wiped once its cipher is garbage', async () => {
    setFlagsFromString('--expose-gc')
    const collectGarbage = runInNewContext('gc') as () => void
    const before = native.keyTableUsage().slotsUsed
    for (let i = 0; i < 100; i++) createNativeFrameCipher(native, randomBytes(32), messageId)
    expect(native.keyTableUsage().slotsUsed).toBe(before + 100)
    for (let turns = 0; turns < 50 && native.keyTableUsage().slotsUsed > before; turns++) {
      collectGarbage()
      await turn()
    }
    // Those of the tests before may have gone with them.
    expect(native.keyTableUsage().slotsUsed).toBeLessThanOrEqual(before)
  })

  const RUN: FrameRun = { frameLength: 50, firstSequence: 1, frames: 2, final: false }

  test.each<readonly [string, Partial<FrameRun>, number]>([
    ['fewer bytes than its frames have', {}, 99],
    ['more bytes than its frames have', {}, 101],
    ['a final frame that is longer than a frame', { final: true }, 101],
    ['a final frame and none before it', { final: true }, 49],
    ['the number of the header', { firstSequence: 0 }, 100],
    ['numbers beyond 2^32 - 1', { firstSequence: 2 ** 32 - 1 }, 100],
    ['a first number of more than 32 bits', { firstSequence: 2 ** 32 + 1 }, 100],
    ['no frames', { frames: 0 }, 0],
    ['frames of no bytes', { frameLength: 0 }, 0],
    ['a negative number of frames', { frames: -1 }, 100],
    ['half a frame', { frames: 1.5, frameLength: 40 }, 60],
  ])('refuses a run of %s', (_what, change, bytes) => {
    const run = { ...RUN, ...change }
    const cipher = createNativeFrameCipher(native, randomBytes(32), messageId)
    expect(() => cipher.sealFrames(run, Buffer.alloc(bytes))).toThrow()
    const wire = Buffer.alloc(Math.max(0, Math.ceil(bytes + overheadBytes(run))))
    expect(() => cipher.openFrames(run, wire)).toThrow()
    cipher.wipe()
  })

  test('takes frames of the length that is read, and none that is longer', () => {
    const cipher = createNativeFrameCipher(native, randomBytes(32), messageId)
    const plaintext = Buffer.alloc(FRAME_BYTES_READ_MAX + 1, 7)
    const longest = { ...RUN, frames: 1, frameLength: FRAME_BYTES_READ_MAX }
    const wire = cipher.sealFrames(longest, plaintext.subarray(1)) as Uint8Array
    expect(plaintext.subarray(1).equals(cipher.openFrames(longest, wire) as Uint8Array)).toBe(true)
    const longer = { ...longest, frameLength: FRAME_BYTES_READ_MAX + 1 }
    expect(() => cipher.sealFrames(longer, plaintext)).toThrow(
      expect.objectContaining({ code: 'INTERNAL' }),
    )
    cipher.wipe()
  })
})
