/**
 * JSON as a policy may be written: what JSON.parse takes, but for duplicate keys. JSON.parse keeps the last of them,
 * and a second `Effect` or `Condition` would silently replace the one that a reader saw. Objects become maps, so no
 * name means anything to the runtime; numbers keep their spelling.
 */
import { KeyfoldError } from '../../errors.ts'

export type Json = string | boolean | null | JsonNumber | readonly Json[] | JsonObject
export type JsonObject = ReadonlyMap<string, Json>

export class JsonNumber {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

/** A policy nests six deep at most: document, statements, statement, condition, operator, values. */
const DEPTH_MAX = 16

/** Throws POLICY_MALFORMED. */
export function parseStrictJson(text: string): Json {
  return new Parser(text).document()
}

const WHITE_SPACE = /[\t\n\r ]*/y
const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/y
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
const WORDS: ReadonlyMap<string, Json> = new Map<string, Json>([
  ['true', true],
  ['false', false],
  ['null', null],
])

class Parser {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  document(): Json {
    const value = this.#value(0)
    if (this.#next() !== '') throw this.#malformed()
    return value
  }

  #value(depth: number): Json {
    if (depth > DEPTH_MAX) throw new KeyfoldError('POLICY_MALFORMED', 'nested too deeply')
    const next = this.#next()
    if (next === '{') return this.#object(depth)
    if (next === '[') return this.#array(depth)
    if (next === '"') return this.#string()
    for (const [word, value] of WORDS) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length
        return value
      }
    }
    return new JsonNumber(this.#take(NUMBER))
  }

  #object(depth: number): JsonObject {
    const entries = new Map<string, Json>()
    this.#at++
    if (this.#next() === '}') {
      this.#at++
      return entries
    }
    for (;;) {
      if (this.#next() !== '"') throw this.#malformed()
      const key = this.#string()
      if (entries.has(key)) {
        throw new KeyfoldError('POLICY_MALFORMED', `the key ${quote(key)} occurs twice`)
      }
      this.#punctuation(':')
      entries.set(key, this.#value(depth + 1))
      if (this.#punctuation(',}') === '}') return entries
    }
  }

  #array(depth: number): readonly Json[] {
    const values: Json[] = []
    this.#at++
    if (this.#next() === ']') {
      this.#at++
      return values
    }
    for (;;) {
      values.push(this.#value(depth + 1))
      if (this.#punctuation(',]') === ']') return values
    }
  }

  #string(): string {
    const literal = this.#take(STRING)
    try {
      // Escapes and forbidden control characters are as JSON.parse has them.
      return JSON.parse(literal) as string
    } catch {
      throw this.#malformed()
    }
  }

  #punctuation(allowed: string): string {
    const next = this.#next()
    if (next === '' || !allowed.includes(next)) throw this.#malformed()
    this.#at++
    return next
  }

  /** The next character that is no white space; empty at the end. */
  #next(): string {
    WHITE_SPACE.lastIndex = this.#at
    WHITE_SPACE.test(this.#text)
    this.#at = WHITE_SPACE.lastIndex
    return this.#text[this.#at] ?? ''
  }

  #take(token: RegExp): string {
    token.lastIndex = this.#at
    const match = token.exec(this.#text)
    if (match === null || match[0] === '') throw this.#malformed()
    this.#at = token.lastIndex
    return match[0]
  }

  #malformed(): KeyfoldError {
    return new KeyfoldError('POLICY_MALFORMED', `not JSON at character ${this.#at + 1}`)
  }
}

const QUOTED_CHARACTERS_MAX = 64

/** A name out of the document as an error shows it. */
export function quote(name: string): string {
  return JSON.stringify(
    name.length > QUOTED_CHARACTERS_MAX ? `${name.slice(0, QUOTED_CHARACTERS_MAX)}…` : name,
  )
}
