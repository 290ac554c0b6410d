/**
 * MessagePack written by hand, from the specification at msgpack.org: each value in whichever of its encodings the
 * test asks for, also the wasteful ones, which no encoder writes and every decoder has to take.
 */

/** Bytes of the length or number behind the head; 0 for the encodings whose head holds it. */
export type Width = 0 | 1 | 2 | 4 | 8

const big = (value: number, width: number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes.subarray(8 - width)
}

function headed(
  fix: number | undefined,
  fixMax: number,
  heads: Readonly<Partial<Record<Width, number>>>,
  length: number,
  width: Width,
): Buffer {
  if (width === 0 && fix !== undefined && length <= fixMax) return Buffer.from([fix | length])
  const fits = ([1, 2, 4, 8] as const).find(
    (each) => each >= width && heads[each] !== undefined && length < 2 ** (8 * each),
  )
  if (fits === undefined) throw new RangeError(`no encoding of ${length}`)
  return Buffer.concat([Buffer.from([heads[fits] as number]), big(length, fits)])
}

/** In `width` bytes, or the next larger that exists and holds it. */
export const uint = (value: number, width: Width = 0): Buffer =>
  headed(0, 0x7f, { 1: 0xcc, 2: 0xcd, 4: 0xce, 8: 0xcf }, value, width)

export const binHead = (length: number, width: Width = 0): Buffer =>
  headed(undefined, 0, { 1: 0xc4, 2: 0xc5, 4: 0xc6 }, length, width)

export const bin = (bytes: Uint8Array, width: Width = 0): Buffer =>
  Buffer.concat([binHead(bytes.length, width), bytes])

export function str(text: string | Uint8Array, width: Width = 0): Buffer {
  const bytes = Buffer.from(text as string)
  return Buffer.concat([
    headed(0xa0, 0x1f, { 1: 0xd9, 2: 0xda, 4: 0xdb }, bytes.length, width),
    bytes,
  ])
}

export const arrayHead = (count: number, width: Width = 0): Buffer =>
  headed(0x90, 0x0f, { 2: 0xdc, 4: 0xdd }, count, width)

export const mapHead = (count: number, width: Width = 0): Buffer =>
  headed(0x80, 0x0f, { 2: 0xde, 4: 0xdf }, count, width)

export const array = (elements: readonly Uint8Array[], width: Width = 0): Buffer =>
  Buffer.concat([arrayHead(elements.length, width), ...elements])

/** Keys and values alternate as they lie in the bytes: keys may be of any type, and occur twice. */
export const map = (
  entries: readonly (readonly [string | Uint8Array, Uint8Array])[],
  width: Width = 0,
): Buffer =>
  Buffer.concat([
    mapHead(entries.length, width),
    ...entries.flatMap(([key, value]) => [typeof key === 'string' ? str(key) : key, value]),
  ])

export const nil = Buffer.from([0xc0])
export const boolean = (value: boolean): Buffer => Buffer.from([value ? 0xc3 : 0xc2])
/** Type −1 is the timestamp, the one extension that every library knows. */
export const timestamp = Buffer.from('d6ff00000000', 'hex')
export const float32 = Buffer.from('ca3f800000', 'hex')
export const float64 = Buffer.from('cb3ff0000000000000', 'hex')

/** One value of each type that no request has a place for, by name. */
export const FOREIGN: readonly (readonly [string, Buffer])[] = [
  ['float32', float32],
  ['float64', float64],
  ['negative fixint', Buffer.from('ff', 'hex')],
  ['int8', Buffer.from('d0ff', 'hex')],
  ['int16', Buffer.from('d1ffff', 'hex')],
  ['int32', Buffer.from('d2ffffffff', 'hex')],
  ['int64', Buffer.from('d3ffffffffffffffff', 'hex')],
  ['fixext1', Buffer.from('d40100', 'hex')],
  ['fixext2', Buffer.from('d5010000', 'hex')],
  ['fixext4', timestamp],
  ['fixext8', Buffer.from(`d7ff${'00'.repeat(8)}`, 'hex')],
  ['fixext16', Buffer.from(`d801${'00'.repeat(16)}`, 'hex')],
  ['ext8', Buffer.from('c7010500', 'hex')],
  ['ext16', Buffer.from('c800010500', 'hex')],
  ['ext32', Buffer.from('c9000000010500', 'hex')],
  ['the byte that is never used', Buffer.from('c1', 'hex')],
]
