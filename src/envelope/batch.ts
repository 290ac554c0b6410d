/**
 * What the envelope operations take and give: batches of MessagePack elements in flat memory, never an object a
 * message. The server, the WebSocket and in-process mode all speak to the envelope in these terms.
 */
import type { AsymmetricKeySpec } from '../crypto/key-spec.ts'
import type { Suite } from '../crypto/crypto.ts'
import type { CanonicalContext } from '../data-keys/lease.ts'
import type { KmsKey, Principal, RequestOrigin } from '../kms/kms-key.ts'
import type { MessageErrorCode } from '../errors.ts'
import type { Slot } from '../pool/slot.ts'

export type Form = 'inline' | 'packed' | 'detached'

/**
 * Bytes of a request. They may lie in memory that lives only until the handler returns; `keep` moves them to a
 * slot (offsets stay), and whoever awaits or hands them to a worker calls it first. Idempotent.
 */
export interface RequestBytes {
  readonly bytes: Uint8Array
  keep(): void
}

/** `count` MessagePack elements from `offset` to `end`, without the array header. */
export interface Elements {
  readonly offset: number
  readonly end: number
  readonly count: number
}

/** Where a value lies inside the request's bytes. */
export interface Span {
  readonly offset: number
  readonly end: number
}

/** Who asks, and from where; policies may read both. */
interface Asking {
  readonly principal: Principal
  readonly origin?: RequestOrigin | undefined
}

export interface EncryptRequest extends Asking {
  /** Key id, key ARN, alias or alias ARN. */
  readonly key: string
  readonly context: CanonicalContext
  readonly form: Form
  readonly suite: Suite
  readonly body: RequestBytes
  readonly plaintexts: Elements
}

export interface DecryptRequest extends Asking {
  readonly context: CanonicalContext
  readonly body: RequestBytes
  /** One of the two. */
  readonly ciphertexts: Elements | undefined
  readonly packed: Span | undefined
  /** For detached messages; already views of body.bytes until keep(): re-read through `body` after it. */
  readonly keyEntries: readonly Span[]
}

export interface ReEncryptRequest extends Asking {
  readonly key: string
  readonly mode: 'rewrap' | 'fresh'
  readonly context: CanonicalContext
  /** fresh only; the old context where absent. */
  readonly newContext: CanonicalContext | undefined
  readonly suite: Suite
  readonly body: RequestBytes
  readonly ciphertexts: Elements | undefined
  readonly packed: Span | undefined
  readonly keyEntries: readonly Span[]
}

/**
 * A finished batch: response elements (or one packed value) in a slot at `offset`, with `headRoom` bytes free in
 * front and at least `tailRoom` behind, so that a server writes its map around them without a copy.
 * The receiver owes slot.release().
 */
export interface BatchResult {
  readonly keyId: string | undefined
  readonly slot: Slot
  /** 'elements': MessagePack elements without the array header; 'packed': one raw value without a bin header. */
  readonly shape: 'elements' | 'packed'
  readonly offset: number
  readonly end: number
  readonly messages: number
  /** Sum of the plaintext bytes, for the record of use. */
  readonly plaintextBytes: number
  /** encrypt detached: one entry. re-encrypt detached: one for each that the caller sent. */
  readonly keyEntries: readonly Uint8Array[]
  /** [index, code], ascending; empty almost always. */
  readonly errors: readonly (readonly [number, MessageErrorCode])[]
  /** Under which key material, for the record of use. */
  readonly uses: readonly MaterialUse[]
  /** ARNs of KMS keys whose messages failed because the key could not be used, or not by this caller. */
  readonly refusedKeys: readonly string[]
}

/** Messages of a batch under one version of a KMS key's material. */
export interface MaterialUse {
  readonly kmsKey: KmsKey
  readonly materialVersion: number
  readonly messages: number
}

/** Free bytes in front of a result: fits the largest map head (keyId of 2,048 bytes and the array header). */
export const HEAD_ROOM_BYTES = 2_304
/** Free bytes behind it: small tails fit, larger ones are copied to a slot of their own. */
export const TAIL_ROOM_BYTES = 256

export interface DataKeysRequest extends Asking {
  readonly key: string
  readonly context: CanonicalContext
  readonly count: number
  readonly plaintext: boolean
}

export interface NewMessageKeysRequest extends Asking {
  readonly key: string
  readonly context: CanonicalContext
  /** 0: only whether the caller may. */
  readonly count: number
}

export interface OpenMessageKeysRequest extends Asking {
  readonly context: CanonicalContext
  readonly keyEntries: readonly Uint8Array[]
}

export interface ReleasedMessageKey {
  /** ARN of the KMS key. */
  readonly keyId: string
  readonly keyEntry: Uint8Array
  /** 32 bytes; whoever sends it fills it with zeros afterwards. */
  readonly messageKey: Uint8Array
}

export interface ReleasedMessageKeys {
  /** Of new ones; key entries each name their own. */
  readonly keyId: string | undefined
  /** undefined in the place of a key entry that was refused. */
  readonly messageKeys: readonly (ReleasedMessageKey | undefined)[]
  readonly errors: BatchResult['errors']
  readonly uses: readonly MaterialUse[]
  readonly refusedKeys: readonly string[]
}

/** What a caller may use, as was found by whoever calls, and who pays for calls to its store. */
export interface KeyInUse {
  readonly kmsKey: KmsKey
  readonly principalArn: string
}

/** One data key of the AWS protocol. */
export interface DataKeyRequest extends KeyInUse {
  readonly context: CanonicalContext
  readonly bytes: number
  /** Whether the caller wants to see it. */
  readonly plaintext: boolean
}

export interface DataKeyPairRequest extends KeyInUse {
  readonly context: CanonicalContext
  readonly keyPairSpec: AsymmetricKeySpec
  /** Whether the caller wants to see the private key. */
  readonly plaintext: boolean
}

/** The private key is PKCS#8 DER, the public key SPKI DER. */
export interface CallerDataKeyPair {
  readonly wrappedPrivateKey: Uint8Array
  /** Whoever sends it fills it with zeros afterwards. */
  readonly privateKey: Uint8Array | undefined
  readonly publicKey: Uint8Array
}

export interface EncryptBytesRequest extends KeyInUse {
  readonly context: CanonicalContext
  readonly plaintext: Uint8Array
}

export interface DecryptBytesRequest {
  readonly principal: Principal
  /** The key that the ciphertext names. */
  readonly kmsKey: KmsKey
  readonly context: CanonicalContext
  readonly ciphertext: Uint8Array
}

export interface CallerDataKey {
  readonly wrappedKey: Uint8Array
  /** As many bytes as were asked for; whoever sends it fills it with zeros afterwards. */
  readonly plaintext: Uint8Array | undefined
}

export interface CallerDataKeys {
  readonly keyId: string
  readonly dataKeys: readonly CallerDataKey[]
  readonly uses: readonly MaterialUse[]
}
