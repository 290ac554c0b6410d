/** The settings of a key store as a JSON object: one value each, every name known, every text checked. */
import { readFileSync } from 'node:fs'

import { KeyfoldError } from '../errors.ts'

export class StoreSettings {
  readonly #where: string
  readonly #members: ReadonlyMap<string, unknown>
  readonly #asked = new Set<string>()

  /** Throws CONFIG_INVALID. */
  static read(file: string): StoreSettings {
    let parsed: unknown
    try {
      parsed = JSON.parse(readFileSync(file, 'utf8'))
    } catch (cause) {
      throw new KeyfoldError('CONFIG_INVALID', `${file} is not a readable JSON file`, cause)
    }
    return new StoreSettings(parsed, file)
  }

  constructor(value: unknown, where: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new KeyfoldError('CONFIG_INVALID', `${where} holds no JSON object`)
    }
    this.#where = where
    this.#members = new Map(Object.entries(value))
  }

  text(name: string): string {
    const value = this.optionalText(name)
    if (value === undefined) throw this.wrong(name, 'is needed')
    return value
  }

  optionalText(name: string): string | undefined {
    const value = this.#member(name)
    if (value === undefined) return undefined
    if (typeof value !== 'string' || value === '') throw this.wrong(name, 'a text is needed')
    return value
  }

  optionalWhole(name: string, least: number, most: number): number | undefined {
    const value = this.#member(name)
    if (value === undefined) return undefined
    if (!Number.isInteger(value) || (value as number) < least || (value as number) > most) {
      throw this.wrong(name, `a whole number from ${least} to ${most} is needed`)
    }
    return value as number
  }

  /** Nothing may be left that nobody asked for: a name that was mistyped is no default. */
  end(): void {
    for (const name of this.#members.keys()) {
      if (!this.#asked.has(name)) throw this.wrong(name, 'there is no such setting')
    }
  }

  wrong(name: string, what: string): KeyfoldError {
    return new KeyfoldError('CONFIG_INVALID', `${name} in ${this.#where}: ${what}`)
  }

  #member(name: string): unknown {
    this.#asked.add(name)
    return this.#members.get(name)
  }
}
