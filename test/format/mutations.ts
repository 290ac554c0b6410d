/**
 * What every decoder of ours has to survive, whatever it decodes: each truncation, each other value of each byte, and
 * bytes that follow. Each is refused by name, or decodes to something that encodes to exactly the bytes that came.
 */
import { ERRORS, KeyfoldError, type ErrorCode } from '../../dist/errors.js'

export interface Codec<T> {
  readonly decode: (bytes: Uint8Array) => T
  readonly encode: (value: T) => Uint8Array
  /** The only code that it may refuse with. */
  readonly code: ErrorCode
  /** Blobs that nothing says anything about: the error has no reason behind its code. */
  readonly silent?: boolean
}

export interface Outcomes {
  /** Lengths, or offsets of flipped bytes, of which at least one mutation was accepted. */
  readonly accepted: readonly number[]
  readonly refused: number
}

/** Whether `bytes` decode; throws unless they are refused by name or encode back to themselves. */
export function accepts<T>(codec: Codec<T>, bytes: Uint8Array): boolean {
  // In the middle of other bytes: a decoder that reads outside its view finds 0xA5 there, not zeros.
  const around = Buffer.alloc(bytes.length + 16, 0xa5)
  around.set(bytes, 8)
  const view = around.subarray(8, 8 + bytes.length)
  let value: T
  try {
    value = codec.decode(view)
  } catch (error) {
    const shown = Buffer.from(bytes).toString('hex').slice(0, 200)
    if (!(error instanceof KeyfoldError)) {
      throw new Error(`${shown} was refused by accident`, { cause: error })
    }
    const named = error.message.startsWith(`${ERRORS[codec.code].message}: `)
    if (error.code !== codec.code || !(named || codec.silent === true)) {
      throw new Error(`${shown} was refused as ${error.code}: ${error.message}`, { cause: error })
    }
    return false
  }
  const again = Buffer.from(codec.encode(value))
  if (!again.equals(bytes)) {
    throw new Error(
      `${Buffer.from(bytes).toString('hex')} decodes, but encodes to ${again.toString('hex')}`,
    )
  }
  return true
}

/** Every proper prefix. */
export function truncations<T>(codec: Codec<T>, bytes: Uint8Array): Outcomes {
  const accepted: number[] = []
  for (let length = 0; length < bytes.length; length++) {
    if (accepts(codec, bytes.subarray(0, length))) accepted.push(length)
  }
  return { accepted, refused: bytes.length - accepted.length }
}

/** Every byte with every other value it could have. */
export function flips<T>(codec: Codec<T>, bytes: Uint8Array): Outcomes {
  const accepted: number[] = []
  let refused = 0
  const flipped = Buffer.from(bytes)
  for (let offset = 0; offset < bytes.length; offset++) {
    const before = flipped[offset] as number
    let any = false
    for (let mask = 1; mask < 256; mask++) {
      flipped[offset] = before ^ mask
      if (accepts(codec, flipped)) any = true
      else refused++
    }
    flipped[offset] = before
    if (any) accepted.push(offset)
  }
  return { accepted, refused }
}

/** `from` up to, not including, `to`. */
export function range(from: number, to: number): readonly number[] {
  return Array.from({ length: to - from }, (_, i) => from + i)
}

/** What `run` is refused with, as `CODE: message`; throws where it is not refused by us. */
export function refusal(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof KeyfoldError) return `${error.code}: ${error.message}`
    throw error
  }
  throw new Error('nothing was refused')
}
