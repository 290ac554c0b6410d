/**
 * Bearer tokens: `kf_ID_SECRET`. The secret has 256 random bits and only its SHA-256 is kept, so no slow hash is
 * needed. All tokens are in memory (they are few): authenticating waits for nothing.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'

import type { Catalog, CatalogTransaction } from '../catalog/catalog.ts'
import { insertToken, readTokens, revokeToken, type StoredToken } from '../catalog/tokens.ts'
import { KeyfoldError } from '../errors.ts'
import type { Principal } from './kms-key.ts'
import { PRINCIPAL_ARN_PATTERN } from './reference.ts'

const PREFIX = 'kf'
const ID_BYTES = 9
const SECRET_BYTES = 32
const TOKEN_PATTERN = /^kf_([0-9a-f]{18})_([\w-]{43})$/

/** What is shown of a token: everything but the secret. */
export interface TokenRecord {
  readonly tokenId: string
  readonly name: string
  readonly principal: string
  readonly actions: readonly string[]
  readonly keys: readonly string[]
  readonly createdAtMs: number
  readonly expiresAtMs: number | undefined
  readonly revokedAtMs: number | undefined
}

export interface NewToken {
  readonly name: string
  /** `user/NAME` of the catalog's account where absent. */
  readonly principalArn?: string | undefined
  readonly actions: readonly string[]
  readonly keys: readonly string[]
  readonly expiresAtMs?: number | undefined
}

export class Tokens {
  readonly #catalog: Catalog
  readonly #tokens = new Map<string, StoredToken>()
  readonly #listeners: (() => void)[] = []

  static async load(catalog: Catalog): Promise<Tokens> {
    const tokens = new Tokens(catalog)
    for (const token of await readTokens(catalog.db)) tokens.#tokens.set(token.id, token)
    return tokens
  }

  constructor(catalog: Catalog) {
    this.#catalog = catalog
  }

  /** The secret is in the answer and nowhere else. `first` is part of the same transaction. */
  async create(
    request: NewToken,
    first: (transaction: CatalogTransaction) => Promise<void> = () => Promise.resolve(),
  ): Promise<{ readonly token: string; readonly record: TokenRecord }> {
    checkNewToken(request)
    const id = randomBytes(ID_BYTES).toString('hex')
    const secret = randomBytes(SECRET_BYTES).toString('base64url')
    const stored: StoredToken = {
      id,
      name: request.name,
      secretHash: hashSecret(secret),
      principalArn:
        request.principalArn ?? `arn:aws:iam::${this.#catalog.account}:user/${request.name}`,
      actions: request.actions,
      keys: request.keys,
      createdAtMs: Date.now(),
      expiresAtMs: request.expiresAtMs ?? null,
      revokedAtMs: null,
    }
    await this.#catalog.change(async (transaction, changeNumber) => {
      await first(transaction)
      await insertToken(transaction, stored, changeNumber)
    })
    this.#replace(stored)
    await this.#catalog.acknowledged()
    return { token: `${PREFIX}_${id}_${secret}`, record: recordOf(stored) }
  }

  list(): readonly TokenRecord[] {
    return [...this.#tokens.values()].map(recordOf)
  }

  async revoke(id: string): Promise<void> {
    const stored = this.#tokens.get(id)
    if (stored === undefined) throw new KeyfoldError('TOKEN_NOT_FOUND')
    if (stored.revokedAtMs !== null) return
    const revokedAtMs = Date.now()
    await this.#catalog.change((transaction, changeNumber) =>
      revokeToken(transaction, id, revokedAtMs, changeNumber),
    )
    this.#replace({ ...stored, revokedAtMs })
    await this.#catalog.acknowledged()
  }

  /** Takes in what other nodes have changed after `since`, or all there is. */
  async follow(since: number | undefined): Promise<void> {
    for (const stored of await readTokens(this.#catalog.db, since)) {
      // What was read may be older than a revocation by this node, and none is ever taken back.
      const revoked = this.#tokens.get(stored.id)?.revokedAtMs ?? null
      if (revoked === null || stored.revokedAtMs !== null) this.#replace(stored)
    }
  }

  /** Who sends this token; undefined where it is none of ours, expired or revoked. */
  authenticate(token: string): Principal | undefined {
    // base64url has underscores of its own: everything behind the second one is the secret.
    const match = TOKEN_PATTERN.exec(token)
    if (match === null) return undefined
    const [, id, secret] = match as unknown as [string, string, string]
    const stored = this.#tokens.get(id)
    if (stored === undefined) return undefined
    if (!timingSafeEqual(hashSecret(secret), stored.secretHash)) return undefined
    if (stored.revokedAtMs !== null) return undefined
    if (stored.expiresAtMs !== null && stored.expiresAtMs <= Date.now()) return undefined
    return {
      arn: stored.principalArn,
      credential: 'token',
      tokenId: id,
      actions: stored.actions,
      keys: stored.keys,
      expiresAtMs: stored.expiresAtMs ?? undefined,
    }
  }

  /** Called in the tick in which a token appears or is revoked: whoever remembers principals forgets them. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener)
  }

  #replace(stored: StoredToken): void {
    this.#tokens.set(stored.id, stored)
    for (const listener of this.#listeners) listener()
  }
}

const NAME_PATTERN = /^[\w+=,.@-]{1,64}$/
const PATTERNS_MAX = 64
const PATTERN_CHARACTERS_MAX = 2_048
/** The last moment that a Date can hold (ECMA-262 §21.4.1.1). */
const EXPIRES_AT_MS_MAX = 8.64e15

export function checkPrincipalArn(principalArn: string): void {
  if (!PRINCIPAL_ARN_PATTERN.test(principalArn)) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      'principal: arn:aws:iam::ACCOUNT:user/NAME is needed',
    )
  }
}

export function checkExpiry(expiresAtMs: number): void {
  // What is no whole number of milliseconds would be kept as another one, or as none at all.
  const usable = Number.isInteger(expiresAtMs) && expiresAtMs <= EXPIRES_AT_MS_MAX
  if (!usable || expiresAtMs <= Date.now()) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'expiry: a moment in the future is needed')
  }
}

function checkNewToken(request: NewToken): void {
  const { name, principalArn, actions, keys, expiresAtMs } = request
  if (!NAME_PATTERN.test(name)) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'name: 1 to 64 letters, digits and + = , . @ - _')
  }
  if (principalArn !== undefined) checkPrincipalArn(principalArn)
  if (expiresAtMs !== undefined) checkExpiry(expiresAtMs)
  for (const [field, patterns] of Object.entries({ actions, keys })) {
    const usable =
      patterns.length >= 1 &&
      patterns.length <= PATTERNS_MAX &&
      patterns.every((pattern) => pattern !== '' && pattern.length <= PATTERN_CHARACTERS_MAX)
    if (!usable) {
      throw new KeyfoldError('REQUEST_MALFORMED', `${field}: 1 to ${PATTERNS_MAX} patterns`)
    }
  }
}

function hashSecret(secret: string): Uint8Array {
  return createHash('sha256').update(secret).digest()
}

function recordOf(stored: StoredToken): TokenRecord {
  return {
    tokenId: stored.id,
    name: stored.name,
    principal: stored.principalArn,
    actions: stored.actions,
    keys: stored.keys,
    createdAtMs: stored.createdAtMs,
    expiresAtMs: stored.expiresAtMs ?? undefined,
    revokedAtMs: stored.revokedAtMs ?? undefined,
  }
}
