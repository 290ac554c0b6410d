/**
 * Who sends a request: the bearer token in its Authorization header. Headers that were good are remembered, so that
 * one more request costs a look-up and no hash; any change of tokens forgets them all.
 */
import { KeyfoldError } from '../errors.ts'
import type { Principal } from '../kms/kms-key.ts'
import type { Tokens } from '../kms/tokens.ts'

const SCHEME = 'Bearer '
const REMEMBERED_MAX = 10_000

export class Principals {
  readonly #tokens: Tokens
  readonly #remembered = new Map<string, Principal>()

  constructor(tokens: Tokens) {
    this.#tokens = tokens
    tokens.onChange(() => this.#remembered.clear())
  }

  /** Throws UNAUTHENTICATED. */
  authenticate(authorization: string): Principal {
    const known = this.#remembered.get(authorization)
    if (known !== undefined && !isExpired(known)) return known
    const principal = authorization.startsWith(SCHEME)
      ? this.#tokens.authenticate(authorization.slice(SCHEME.length))
      : undefined
    if (principal === undefined) throw new KeyfoldError('UNAUTHENTICATED')
    if (this.#remembered.size >= REMEMBERED_MAX) this.#remembered.clear()
    this.#remembered.set(authorization, principal)
    return principal
  }
}

function isExpired({ expiresAtMs }: Principal): boolean {
  return expiresAtMs !== undefined && expiresAtMs <= Date.now()
}
