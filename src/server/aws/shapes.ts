/**
 * Input shapes of the AWS protocol: what a member of a request may be, in AWS's terms and refused in AWS's words.
 * Unknown members are ignored, as every AWS service does; a null is a member that is not there.
 *
 * A refusal repeats the value only where it is a name, a number or one of a set: never plaintext, nor what may be a
 * secret.
 */
import { KeyfoldError } from '../../errors.ts'

/** Reads one member; throws REQUEST_MALFORMED. `at` is its name as AWS writes it: `keyId`, `tags.1.member.tagKey`. */
export type Shape<T> = (value: unknown, at: string) => T

export interface Required<T> {
  readonly shape: Shape<T>
  readonly required: true
}
export interface Optional<T> {
  readonly shape: Shape<T>
  readonly required: false
}

type Member<T> = Required<T> | Optional<T>

export type Members = Readonly<Record<string, Member<unknown>>>

/** What a structure of these members reads as. */
export type Input<M extends Members> = {
  readonly [N in keyof M]: M[N] extends Required<infer T>
    ? T
    : M[N] extends Optional<infer T>
      ? T | undefined
      : never
}

export function required<T>(shape: Shape<T>): Required<T> {
  return { shape, required: true }
}

export function optional<T>(shape: Shape<T>): Optional<T> {
  return { shape, required: false }
}

/** A member that is refused rather than ignored: whoever sends it relies on what it asks for. */
export function unsupported(reason: string): Optional<never> {
  return {
    shape: (_, at) => {
      throw new KeyfoldError('OPERATION_UNSUPPORTED', `${at}: ${reason}`)
    },
    required: false,
  }
}

export function structure<M extends Members>(members: M): Shape<Input<M>> {
  return (value, at) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw serialization(at, 'a structure')
    }
    const given = value as Readonly<Record<string, unknown>>
    const read: Record<string, unknown> = {}
    for (const [name, member] of Object.entries(members)) {
      const inner = at === '' ? memberName(name) : `${at}.${memberName(name)}`
      const found = Object.hasOwn(given, name) ? given[name] : undefined
      if (found !== undefined && found !== null) read[name] = member.shape(found, inner)
      else if (member.required) throw invalid('null', inner, 'Member must not be null')
    }
    return read as Input<M>
  }
}

export function text(bounds: {
  readonly min?: number
  readonly max: number
  readonly pattern?: RegExp
}): Shape<string> {
  const { min = 0, max, pattern } = bounds
  return (value, at) => {
    if (typeof value !== 'string') throw serialization(at, 'a string')
    checkLength(value.length, min, max, at)
    if (pattern !== undefined && !pattern.test(value)) {
      throw invalid(
        quoted(value),
        at,
        `Member must satisfy regular expression pattern: ${pattern.source}`,
      )
    }
    return value
  }
}

export function oneOf<const T extends string>(...values: readonly T[]): Shape<T> {
  return (value, at) => {
    if (typeof value !== 'string') throw serialization(at, 'a string')
    const found = values.find((candidate) => candidate === value)
    if (found !== undefined) return found
    throw invalid(
      quoted(value),
      at,
      `Member must satisfy enum value set: [${[...values].sort().join(', ')}]`,
    )
  }
}

export function whole(min: number, max: number): Shape<number> {
  return (value, at) => {
    if (typeof value !== 'number' || !Number.isInteger(value)) {
      throw serialization(at, 'a whole number')
    }
    if (value < min) {
      throw invalid(`'${value}'`, at, `Member must have value greater than or equal to ${min}`)
    }
    if (value > max) {
      throw invalid(`'${value}'`, at, `Member must have value less than or equal to ${max}`)
    }
    return value
  }
}

export const flag: Shape<boolean> = (value, at) => {
  if (typeof value !== 'boolean') throw serialization(at, 'true or false')
  return value
}

/** Seconds since 1970, possibly fractional; read as milliseconds. */
export const timestamp: Shape<number> = (value, at) => {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw serialization(at, 'a timestamp')
  return Math.round(value * 1000)
}

/** Base64 (RFC 4648 §4). Decoded length within bounds. The bytes are the caller's: whoever reads secrets wipes them. */
export function binary(min: number, max: number): Shape<Uint8Array> {
  return (value, at) => {
    if (typeof value !== 'string' || !isBase64(value)) throw serialization(at, 'base64')
    const bytes = Buffer.from(value, 'base64')
    checkLength(bytes.length, min, max, at)
    return bytes
  }
}

export function list<T>(
  element: Shape<T>,
  bounds: { readonly min?: number; readonly max: number },
): Shape<readonly T[]> {
  const { min = 0, max } = bounds
  return (value, at) => {
    if (!Array.isArray(value)) throw serialization(at, 'a list')
    checkLength(value.length, min, max, at)
    return value.map((one, index) => element(one, `${at}.${index + 1}.member`))
  }
}

/** A map of strings, whatever its keys are called. */
export const textMap: Shape<ReadonlyMap<string, string>> = (value, at) => {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw serialization(at, 'a map of strings')
  }
  const entries = Object.entries(value as object)
  for (const [, element] of entries) {
    if (typeof element !== 'string') throw serialization(at, 'a map of strings')
  }
  return new Map(entries as [string, string][])
}

function checkLength(length: number, min: number, max: number, at: string): void {
  if (length < min) {
    throw invalid(
      `of length ${length}`,
      at,
      `Member must have length greater than or equal to ${min}`,
    )
  }
  if (length > max) {
    throw invalid(`of length ${length}`, at, `Member must have length less than or equal to ${max}`)
  }
}

/** Canonical base64 and nothing else: Buffer.from would skip over what is none. */
function isBase64(text: string): boolean {
  return text.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(text)
}

/** How AWS writes a member's name in a refusal: KeyId → keyId. */
function memberName(name: string): string {
  return name.charAt(0).toLowerCase() + name.slice(1)
}

const QUOTED_CHARACTERS_MAX = 256

function quoted(value: string): string {
  const shown =
    value.length > QUOTED_CHARACTERS_MAX ? `${value.slice(0, QUOTED_CHARACTERS_MAX)}…` : value
  return `'${shown}'`
}

function invalid(value: string, at: string, constraint: string): KeyfoldError {
  return new KeyfoldError(
    'REQUEST_MALFORMED',
    `1 validation error detected: Value ${value} at '${at}' failed to satisfy constraint: ${constraint}`,
  )
}

function serialization(at: string, needed: string): KeyfoldError {
  return new KeyfoldError(
    'SERIALIZATION_INVALID',
    `${at === '' ? 'the request' : at}: ${needed} is needed`,
  )
}
