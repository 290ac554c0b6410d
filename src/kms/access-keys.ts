/**
 * Access keys of AWS Signature Version 4: an id, and a secret that signs. Verifying a signature needs the secret, so
 * the catalog keeps it sealed under the root key, and so does memory: it is opened for the moment in which a signing
 * key is derived. All access keys are in memory (they are few): looking one up waits for nothing.
 *
 * An access key says who signed. What they may do is not the access key's matter.
 */
import { hash, randomBytes } from 'node:crypto'

import {
  insertAccessKey,
  readAccessKeys,
  revokeAccessKey,
  type StoredAccessKey,
} from '../catalog/access-keys.ts'
import type { Catalog } from '../catalog/catalog.ts'
import { KeyfoldError } from '../errors.ts'
import type { SecretPlace } from '../format/sealed-secret.ts'
import type { SecretSealer } from '../key-stores/secret-sealer.ts'
import type { Principal } from './kms-key.ts'
import { checkExpiry, checkPrincipalArn } from './tokens.ts'

/** AWS's own prefixes: SDKs and secret scanners know them. */
const LONG_LIVED_PREFIX = 'AKIA'
const TEMPORARY_PREFIX = 'ASIA'
const ID_CHARACTERS = 16
/** RFC 4648 §6. */
const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'
/** 40 characters of base64, as long as AWS's. */
const SECRET_BYTES = 30
const SESSION_TOKEN_BYTES = 48

/** What is shown of an access key: everything but the secret. */
export interface AccessKeyRecord {
  readonly accessKeyId: string
  readonly principal: string
  /** Signs together with a session token only. */
  readonly temporary: boolean
  readonly createdAtMs: number
  readonly expiresAtMs: number | undefined
  readonly revokedAtMs: number | undefined
}

export interface NewAccessKey {
  readonly principalArn: string
  /** Temporary credentials, with a session token: they need an end. */
  readonly temporary?: boolean | undefined
  readonly expiresAtMs?: number | undefined
}

/** What is told once. */
export interface CreatedAccessKey {
  readonly secretAccessKey: string
  readonly sessionToken: string | undefined
  readonly record: AccessKeyRecord
}

/** An access key that signs; its secret stays sealed until it is asked for. */
export class AccessKey {
  readonly principal: Principal
  readonly sessionTokenHash: Uint8Array | undefined
  readonly #sealer: SecretSealer
  readonly #sealedSecret: Uint8Array

  constructor(stored: StoredAccessKey, sealer: SecretSealer) {
    this.principal = {
      arn: stored.principalArn,
      credential: 'access-key',
      tokenId: stored.id,
      actions: ['*'],
      keys: ['*'],
      expiresAtMs: stored.expiresAtMs ?? undefined,
    }
    this.sessionTokenHash = stored.sessionTokenHash ?? undefined
    this.#sealer = sealer
    this.#sealedSecret = stored.sealedSecret
  }

  /** The secret, which the caller fills with zeros. Errors: LOCKED, ROOT_KEY_INVALID. */
  openSecret(): Uint8Array {
    const { tokenId, arn } = this.principal
    return this.#sealer.open(placeOf(tokenId, arn), this.#sealedSecret)
  }
}

export class AccessKeys {
  readonly #catalog: Catalog
  readonly #sealer: SecretSealer
  readonly #stored = new Map<string, StoredAccessKey>()
  /** Those that were not revoked. */
  readonly #usable = new Map<string, AccessKey>()
  readonly #listeners: (() => void)[] = []
  #locked = false

  static async load(catalog: Catalog, sealer: SecretSealer): Promise<AccessKeys> {
    const accessKeys = new AccessKeys(catalog, sealer)
    for (const stored of await readAccessKeys(catalog.db)) accessKeys.#keep(stored)
    return accessKeys
  }

  constructor(catalog: Catalog, sealer: SecretSealer) {
    this.#catalog = catalog
    this.#sealer = sealer
  }

  /** The secret and the session token are in the answer and nowhere else. Errors: REQUEST_MALFORMED, LOCKED. */
  async create(request: NewAccessKey): Promise<CreatedAccessKey> {
    const { principalArn, temporary = false, expiresAtMs } = request
    checkPrincipalArn(principalArn)
    if (expiresAtMs !== undefined) checkExpiry(expiresAtMs)
    else if (temporary) {
      throw new KeyfoldError('REQUEST_MALFORMED', 'expiry: temporary credentials need one')
    }
    const id = createId(temporary ? TEMPORARY_PREFIX : LONG_LIVED_PREFIX)
    const sessionToken = temporary ? randomBytes(SESSION_TOKEN_BYTES).toString('base64') : undefined
    const secret = Buffer.from(randomBytes(SECRET_BYTES).toString('base64'))
    try {
      const stored: StoredAccessKey = {
        id,
        principalArn,
        sealedSecret: this.#sealer.seal(placeOf(id, principalArn), secret),
        sessionTokenHash:
          sessionToken === undefined ? null : hash('sha256', sessionToken, 'buffer'),
        createdAtMs: Date.now(),
        expiresAtMs: expiresAtMs ?? null,
        revokedAtMs: null,
      }
      await this.#catalog.change((transaction, changeNumber) =>
        insertAccessKey(transaction, stored, changeNumber),
      )
      this.#replace(stored)
      return { secretAccessKey: secret.toString(), sessionToken, record: recordOf(stored) }
    } finally {
      secret.fill(0)
    }
  }

  list(): readonly AccessKeyRecord[] {
    return [...this.#stored.values()].map(recordOf)
  }

  async revoke(id: string): Promise<void> {
    const stored = this.#stored.get(id)
    if (stored === undefined) throw new KeyfoldError('ACCESS_KEY_NOT_FOUND')
    if (stored.revokedAtMs !== null) return
    const revokedAtMs = Date.now()
    await this.#catalog.change((transaction, changeNumber) =>
      revokeAccessKey(transaction, id, revokedAtMs, changeNumber),
    )
    this.#replace({ ...stored, sealedSecret: new Uint8Array(0), revokedAtMs })
  }

  /**
   * The access key of this id; undefined where it is none of ours or was revoked. Whether it has expired is for the
   * principal's expiresAtMs to say: only whoever signed is told. Errors: LOCKED.
   */
  find(id: string): AccessKey | undefined {
    if (this.#locked) throw new KeyfoldError('LOCKED')
    return this.#usable.get(id)
  }

  /** Called in the tick in which one appears or is revoked, or all are locked: what was derived of them is wiped. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener)
  }

  /** Nothing verifies until a restart. */
  lock(): void {
    this.#locked = true
    this.#sealer.lock()
    this.#tellListeners()
  }

  #replace(stored: StoredAccessKey): void {
    this.#keep(stored)
    this.#tellListeners()
  }

  #keep(stored: StoredAccessKey): void {
    this.#stored.set(stored.id, stored)
    if (stored.revokedAtMs === null) {
      this.#usable.set(stored.id, new AccessKey(stored, this.#sealer))
    } else {
      this.#usable.delete(stored.id)
    }
  }

  #tellListeners(): void {
    for (const listener of this.#listeners) listener()
  }
}

/** A catalog in which a secret was given to another id or principal does not open. */
function placeOf(id: string, principalArn: string): SecretPlace {
  return { purpose: 'access-key', id, owner: principalArn }
}

function createId(prefix: string): string {
  const characters = Array.from(randomBytes(ID_CHARACTERS), (byte) => BASE32[byte % BASE32.length])
  return prefix + characters.join('')
}

function recordOf(stored: StoredAccessKey): AccessKeyRecord {
  return {
    accessKeyId: stored.id,
    principal: stored.principalArn,
    temporary: stored.sessionTokenHash !== null,
    createdAtMs: stored.createdAtMs,
    expiresAtMs: stored.expiresAtMs ?? undefined,
    revokedAtMs: stored.revokedAtMs ?? undefined,
  }
}
