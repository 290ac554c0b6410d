/**
 * Access keys of AWS Signature Version 4: an id, and a secret that signs. Verifying a signature needs the secret, so
 * the catalog keeps it sealed under the root key, and so does memory: it is opened for the moment in which a signing
 * key is derived. All access keys are in memory (they are few): looking one up waits for nothing.
 *
 * An access key says who signed. What they may do is not the access key's matter. Each is for one of two protocols: AWS
 * KMS's, or that of an external key store proxy below one prefix; it is unknown to the other, and to other prefixes.
 */
import { hash, randomBytes } from 'node:crypto'

import {
  countLiveOfPrefix,
  insertAccessKey,
  readAccessKeys,
  revokeAccessKey,
  type StoredAccessKey,
} from '../catalog/access-keys.ts'
import type { Catalog, CatalogTransaction } from '../catalog/catalog.ts'
import { KeyfoldError } from '../errors.ts'
import type { SecretPlace } from '../format/sealed-secret.ts'
import { isXksPrefix, XKS_API_PATH } from '../format/xks-protocol.ts'
import type { SecretSealer } from '../key-stores/secret-sealer.ts'
import { XKS_CREDENTIALS_PER_PREFIX_MAX, XKS_PATH_CHARACTERS_MAX } from '../limits.ts'
import type { Principal } from './kms-key.ts'
import { checkExpiry, checkPrincipalArn } from './tokens.ts'

/** AWS's own prefixes: SDKs and secret scanners know them. */
const LONG_LIVED_PREFIX = 'AKIA'
const TEMPORARY_PREFIX = 'ASIA'
const ID_CHARACTERS = 16
/** AWS KMS takes ids of 20 to 30 characters of base32 for a proxy, and secrets of 43 to 64 with 256 random bits. */
const XKS_PREFIX = 'XKS'
const XKS_ID_CHARACTERS = 23
const XKS_SECRET_BYTES = 33
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
  /** Of an external key store proxy: below which path it signs. Undefined: requests of AWS KMS. */
  readonly xksPrefix: string | undefined
  readonly createdAtMs: number
  readonly expiresAtMs: number | undefined
  readonly revokedAtMs: number | undefined
}

export interface NewAccessKey {
  readonly principalArn: string
  /** Temporary credentials, with a session token: they need an end. */
  readonly temporary?: boolean | undefined
  /** For an external key store proxy: `/a/b`, or '' where its URIs have no prefix. */
  readonly xksPrefix?: string | undefined
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
  readonly xksPrefix: string | undefined
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
    this.xksPrefix = stored.xksPrefix ?? undefined
    this.#sealer = sealer
    this.#sealedSecret = stored.sealedSecret
  }

  /** The secret, which the caller fills with zeros. Errors: LOCKED, ROOT_KEY_INVALID. */
  openSecret(): Uint8Array {
    const { tokenId, arn } = this.principal
    const place = accessKeyPlace({ id: tokenId, principalArn: arn, xksPrefix: this.xksPrefix })
    return this.#sealer.open(place, this.#sealedSecret)
  }
}

export class AccessKeys {
  readonly #catalog: Catalog
  readonly #sealer: SecretSealer
  readonly #stored = new Map<string, StoredAccessKey>()
  /** Those that were not revoked. */
  readonly #usable = new Map<string, AccessKey>()
  /** Of those: where there is a proxy. */
  #xksPrefixes: ReadonlySet<string | undefined> = new Set()
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

  /**
   * The secret and the session token are in the answer and nowhere else. Errors: REQUEST_MALFORMED, LOCKED,
   * LIMIT_EXCEEDED (the prefix has its access keys already).
   */
  async create(request: NewAccessKey): Promise<CreatedAccessKey> {
    const { principalArn, temporary = false, xksPrefix, expiresAtMs } = request
    checkNew(request)
    const ofProxy = xksPrefix !== undefined
    const id = ofProxy
      ? createId(XKS_PREFIX, XKS_ID_CHARACTERS)
      : createId(temporary ? TEMPORARY_PREFIX : LONG_LIVED_PREFIX, ID_CHARACTERS)
    const sessionToken = temporary ? randomBytes(SESSION_TOKEN_BYTES).toString('base64') : undefined
    const secretBytes = ofProxy ? XKS_SECRET_BYTES : SECRET_BYTES
    const secret = Buffer.from(randomBytes(secretBytes).toString('base64'))
    try {
      const stored: StoredAccessKey = {
        id,
        principalArn,
        sealedSecret: this.#sealer.seal(accessKeyPlace({ id, principalArn, xksPrefix }), secret),
        sessionTokenHash:
          sessionToken === undefined ? null : hash('sha256', sessionToken, 'buffer'),
        createdAtMs: Date.now(),
        expiresAtMs: expiresAtMs ?? null,
        revokedAtMs: null,
        xksPrefix: xksPrefix ?? null,
      }
      await this.#catalog.change(async (transaction, changeNumber) => {
        if (ofProxy) await assertRoom(transaction, xksPrefix, stored.createdAtMs)
        await insertAccessKey(transaction, stored, changeNumber)
      })
      this.#replace(stored)
      await this.#catalog.acknowledged()
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
    await this.#catalog.acknowledged()
  }

  /** Takes in what other nodes have changed after `since`, or all there is. */
  async follow(since: number | undefined): Promise<void> {
    for (const stored of await readAccessKeys(this.#catalog.db, since)) {
      // What was read may be older than a revocation by this node, and none is ever taken back.
      const revoked = this.#stored.get(stored.id)?.revokedAtMs ?? null
      if (revoked === null || stored.revokedAtMs !== null) this.#replace(stored)
    }
  }

  /**
   * The access key of this id for AWS KMS; undefined where it is none of ours or was revoked. Whether it has expired is for the
   * principal's expiresAtMs to say: only whoever signed is told. Errors: LOCKED.
   */
  find(id: string): AccessKey | undefined {
    const accessKey = this.#find(id)
    return accessKey?.xksPrefix === undefined ? accessKey : undefined
  }

  /** The same for external key store proxies, of whatever prefix. */
  findOfProxy(id: string): AccessKey | undefined {
    const accessKey = this.#find(id)
    return accessKey?.xksPrefix === undefined ? undefined : accessKey
  }

  /** Whether any access key is for this prefix, which makes it one. */
  hasXksPrefix(xksPrefix: string): boolean {
    return this.#xksPrefixes.has(xksPrefix)
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

  #find(id: string): AccessKey | undefined {
    if (this.#locked) throw new KeyfoldError('LOCKED')
    return this.#usable.get(id)
  }

  #keep(stored: StoredAccessKey): void {
    this.#stored.set(stored.id, stored)
    if (stored.revokedAtMs === null) {
      this.#usable.set(stored.id, new AccessKey(stored, this.#sealer))
    } else {
      this.#usable.delete(stored.id)
    }
    if (stored.xksPrefix === null) return
    this.#xksPrefixes = new Set([...this.#usable.values()].map(({ xksPrefix }) => xksPrefix))
  }

  #tellListeners(): void {
    for (const listener of this.#listeners) listener()
  }
}

/** Throws REQUEST_MALFORMED. */
function checkNew(request: NewAccessKey): void {
  const { principalArn, temporary = false, xksPrefix, expiresAtMs } = request
  checkPrincipalArn(principalArn)
  if (expiresAtMs !== undefined) checkExpiry(expiresAtMs)
  else if (temporary) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'expiry: temporary credentials need one')
  }
  if (xksPrefix === undefined) return
  if (temporary) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'temporary: a proxy knows no session tokens')
  }
  if (!isXksPrefix(xksPrefix)) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      'xksPrefix: / and letters, digits, _ and -, once or more, are needed, or nothing; ' +
        `with ${XKS_API_PATH} at most ${XKS_PATH_CHARACTERS_MAX} characters`,
    )
  }
}

async function assertRoom(
  transaction: CatalogTransaction,
  xksPrefix: string,
  nowMs: number,
): Promise<void> {
  const live = await countLiveOfPrefix(transaction, xksPrefix, nowMs)
  if (live < XKS_CREDENTIALS_PER_PREFIX_MAX) return
  throw new KeyfoldError(
    'LIMIT_EXCEEDED',
    `a prefix has ${XKS_CREDENTIALS_PER_PREFIX_MAX} access keys: revoke one of them first`,
  )
}

/** A catalog in which a secret was given to another id, principal or prefix does not open. */
export function accessKeyPlace(accessKey: {
  readonly id: string
  readonly principalArn: string
  readonly xksPrefix: string | undefined
}): SecretPlace {
  const { id, principalArn, xksPrefix } = accessKey
  if (xksPrefix === undefined) return { purpose: 'access-key', id, owner: principalArn }
  // Neither has a space in it.
  return { purpose: 'xks-access-key', id, owner: `${principalArn} ${xksPrefix}` }
}

function createId(prefix: string, randomCharacters: number): string {
  const characters = Array.from(
    randomBytes(randomCharacters),
    (byte) => BASE32[byte % BASE32.length],
  )
  return prefix + characters.join('')
}

function recordOf(stored: StoredAccessKey): AccessKeyRecord {
  return {
    accessKeyId: stored.id,
    principal: stored.principalArn,
    temporary: stored.sessionTokenHash !== null,
    xksPrefix: stored.xksPrefix ?? undefined,
    createdAtMs: stored.createdAtMs,
    expiresAtMs: stored.expiresAtMs ?? undefined,
    revokedAtMs: stored.revokedAtMs ?? undefined,
  }
}
