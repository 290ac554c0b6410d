/**
 * A KMS key as everyone outside `kms/` sees it: one immutable record. A change makes a new record with a higher
 * epoch, so whoever noted the epoch before an await can tell afterwards whether the ground has moved.
 */
import type { KeySpec, KeyUsage } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import type { KeyMaterial } from '../key-stores/key-store.ts'
import type { RequestParameter } from './policy/request-parameters.ts'

/** AWS KMS's key states; Creating and Updating pass within one transaction here and are never seen. */
export type KeyState =
  | 'Enabled'
  | 'Disabled'
  | 'PendingDeletion'
  | 'PendingReplicaDeletion'
  | 'PendingImport'
  | 'Unavailable'

/** Where key material comes from. */
export type KeyOrigin = 'AWS_KMS' | 'EXTERNAL' | 'AWS_CLOUDHSM' | 'EXTERNAL_KEY_STORE'

/**
 * Whose key it is (AWS KMS, "KMS keys"): the customer's, or one that a named integration of the service made for
 * itself (`alias/aws/…`), which callers do not use directly.
 */
export type KeyManager = 'CUSTOMER' | 'AWS'

/** What a grant lets its grantee do (AWS KMS, "GrantListEntry"). */
export interface Grant {
  /** 64 hex digits. */
  readonly id: string
  readonly granteePrincipal: string
  readonly retiringPrincipal: string | undefined
  /** Operations as CreateGrant names them, without `kms:`. */
  readonly operations: readonly string[]
  /** Pairs that the encryption context must be, or must have among others. */
  readonly constraints: {
    readonly equals: ReadonlyMap<string, string> | undefined
    readonly subset: ReadonlyMap<string, string> | undefined
  }
  readonly name: string | undefined
  readonly createdAtMs: number
}

export interface KmsKey {
  /** Its name in the catalog: the key id, or `KEYID@REGION` of a replica. */
  readonly id: string
  /** A UUID, or `mrk-` and 32 hex digits: what AWS KMS calls the key id. */
  readonly keyId: string
  /** The same as 16 bytes: what ciphertexts carry. */
  readonly idBytes: Uint8Array
  readonly region: string
  /** `arn:aws:kms:REGION:ACCOUNT:key/ID` */
  readonly arn: string
  readonly state: KeyState
  readonly keySpec: KeySpec
  readonly keyUsage: KeyUsage
  readonly origin: KeyOrigin
  readonly manager: KeyManager
  /** undefined: a single-Region key. */
  readonly multiRegion: 'PRIMARY' | 'REPLICA' | undefined
  /** The key policy, JSON as it was put. */
  readonly policy: string
  readonly grants: readonly Grant[]
  /** Names that point here, `alias/…`. */
  readonly aliases: readonly string[]
  readonly description: string
  readonly createdAtMs: number
  /** When its waiting period ends. */
  readonly deletionAtMs: number | undefined
  readonly pendingWindowDays: number | undefined
  /** Automatic rotation; undefined where it is off. */
  readonly rotationPeriodDays: number | undefined
  readonly nextRotationAtMs: number | undefined
  /** The key store that holds its material: `local`, or the id of another. */
  readonly keyStore: string
  /** What the store knows the key by that was there before; undefined where the store made it. */
  readonly externalKeyId: string | undefined
  /** The material that wraps; older ones still unwrap. */
  readonly currentVersion: number
  readonly materials: ReadonlyMap<number, KeyMaterial>
  /** When the first of its imported material expires; undefined: none does. */
  readonly materialValidToMs: number | undefined
  readonly tags: ReadonlyMap<string, string>
  /** Grows with every change of the key's state or material, over all keys of this process. */
  readonly epoch: number
}

/** What a caller may be allowed to do: AWS's action names, and our own where AWS has none. */
export type Action =
  | `kms:${string}`
  | 'keyfold:ReleaseMessageKey'
  | 'keyfold:ManageTokens'
  | 'keyfold:ManageAccessKeys'
  | 'keyfold:ManageIdentityPolicies'
  | 'keyfold:ExplainPolicy'
  | 'keyfold:Lock'
  | 'keyfold:ReadMetrics'

/** Who sent a request, by which credential, and what that lets through at most. */
export interface Principal {
  /** `arn:aws:iam::ACCOUNT:user/NAME` or `…:role/NAME` or `…:root`. */
  readonly arn: string
  /**
   * Nothing beyond the lists below is allowed, whatever policies and grants say. Those of a token also allow by
   * themselves, as an identity policy of the principal would; those of the others only bound.
   */
  readonly credential: 'token' | 'access-key' | 'certificate'
  /** Token id, access key id or fingerprint, for the log and for revocation; never the token or the secret. */
  readonly tokenId: string
  /** Patterns with `*` and `?`, against actions. */
  readonly actions: readonly string[]
  /** `*`, key ids, key ARNs or patterns of ARNs with `*` and `?`. They bound keys; aliases and the rest they leave. */
  readonly keys: readonly string[]
  readonly expiresAtMs: number | undefined
}

/** Where a request came from. */
export interface RequestOrigin {
  /** The caller's address, aws:SourceIp. */
  readonly sourceAddress?: string | undefined
  /** Whether it came over TLS, aws:SecureTransport. */
  readonly secureTransport?: boolean | undefined
  /** For which region it was signed, aws:RequestedRegion where no key says it; the catalog's own where absent. */
  readonly region?: string | undefined
}

/** What a request says beside principal, action and key: condition keys of policies and constraints of grants read it. */
export interface RequestAttributes extends RequestOrigin {
  /** The encryption context; undefined where the operation takes none. */
  readonly encryptionContext?: ReadonlyMap<string, string> | undefined
  /**
   * The integration that asks on the caller's behalf, kms:ViaService: said by the integration itself and never by a
   * request of theirs.
   */
  readonly viaService?: string | undefined
  /** The alias name (`alias/…`) that the request named the key by, kms:RequestAlias. */
  readonly alias?: string | undefined
  /** Tags that the request sets, aws:RequestTag and aws:TagKeys; the value of one that it removes is undefined. */
  readonly tags?: ReadonlyMap<string, string | undefined> | undefined
  /** The grant that CreateGrant would make, or that RetireGrant would end. */
  readonly grant?:
    Pick<Grant, 'granteePrincipal' | 'retiringPrincipal' | 'operations' | 'constraints'> | undefined
  /** Parameters of the operation under the names of their condition keys. */
  readonly parameters?: Readonly<Partial<Record<RequestParameter, string | number | boolean>>>
}

/**
 * The read side of the key registry, from memory. `peek` answers at once or not at all; `resolve` asks the
 * catalog on a miss. References are a key id, key ARN, alias (`alias/NAME`) or alias ARN.
 *
 * Errors of resolve: KMS_KEY_NOT_FOUND.
 */
export interface KmsKeyRegistry {
  peek(reference: string): KmsKey | undefined
  resolve(reference: string): Promise<KmsKey>
  /** By the 16 bytes that a ciphertext carries. `undefined` where memory does not hold it. */
  peekById(idBytes: Uint8Array): KmsKey | undefined
  resolveById(idBytes: Uint8Array): Promise<KmsKey>
  /**
   * Throws CATALOG_UNAVAILABLE while others may have changed the key and this node would not know: asked before anything
   * is done under it, and again before the outcome is handed out.
   */
  assertServed(kmsKey: KmsKey): void
  /** The latest record of a key that was seen before; undefined where it left memory or is gone. */
  current(id: string): KmsKey | undefined
  /** Called in the same tick in which a change becomes visible. */
  onChange(listener: (kmsKeyId: string) => void): void
}

/** What the data plane asks about keys; authorizer.ts answers. */
export interface KeyAuthorizer {
  /**
   * Throws ACCESS_DENIED unless the principal may; called once per batch and key. It is asked before existence or
   * state of a key is told, so that the unauthorised see one answer for absent, disabled and forbidden keys.
   */
  authorize(
    principal: Principal,
    action: Action,
    kmsKey: KmsKey,
    attributes: RequestAttributes,
  ): void
  /** What a caller is told whose key is not there: the same as for a forbidden one, unless they may use all. */
  absentKeyError(principal: Principal, action: Action): KeyfoldError
}

/** Envelope encryption is for enabled symmetric keys. Throws what AWS KMS answers for others. */
export function assertUsable(kmsKey: Pick<KmsKey, 'state' | 'arn' | 'keySpec' | 'keyUsage'>): void {
  const { arn, keySpec, keyUsage } = kmsKey
  if (keySpec !== 'SYMMETRIC_DEFAULT') {
    throw new KeyfoldError('KMS_KEY_USAGE_INVALID', `${arn} is ${keySpec} for ${keyUsage}.`)
  }
  assertEnabled(kmsKey)
}

/** Cryptography is for enabled keys. Throws KMS_KEY_DISABLED, KMS_KEY_STATE_INVALID. */
export function assertEnabled({ state, arn }: Pick<KmsKey, 'state' | 'arn'>): void {
  if (state === 'Enabled') return
  throw state === 'Disabled'
    ? new KeyfoldError('KMS_KEY_DISABLED', `${arn} is disabled.`)
    : new KeyfoldError('KMS_KEY_STATE_INVALID', `${arn} ${STATE_WORDS[state]}.`)
}

/** As AWS KMS words it; Terraform matches "is pending deletion". */
export const STATE_WORDS = {
  Enabled: 'is enabled',
  Disabled: 'is disabled',
  PendingDeletion: 'is pending deletion',
  PendingReplicaDeletion: 'is pending replica deletion',
  PendingImport: 'is pending import',
  Unavailable: 'is unavailable',
} as const satisfies Record<KeyState, string>
