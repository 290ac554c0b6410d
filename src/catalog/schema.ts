/**
 * The tables of the catalog, one schema for SQLite and PostgreSQL: text, integers of milliseconds, blobs, CHECKs;
 * no enums, sequences or advisory locks. Migrations in migrations.ts create them and are only ever added to.
 *
 * Every transaction that changes what other nodes cache adds 1 to `changes.number` in the same commit, and stamps
 * the rows it touched, or says in `removals` which are gone; a node polls that one row.
 */
import type { Generated } from 'kysely'

export interface CatalogTables {
  /** One row: what was frozen when the catalog was created. */
  catalog: {
    id: 1
    region: string
    account: string
    createdAtMs: number
  }
  /** One row: the change number. */
  changes: { id: 1; number: number }
  kmsKeys: {
    /** UUID or mrk-…, as text; a replica's has `@REGION` behind it. */
    id: string
    description: string
    state:
      | 'Enabled'
      | 'Disabled'
      | 'PendingDeletion'
      | 'PendingReplicaDeletion'
      | 'PendingImport'
      | 'Unavailable'
      /** A tombstone: its waiting period is over and its material destroyed. */
      | 'Deleted'
    keySpec: string
    keyUsage: string
    origin: string
    keyStore: string
    currentVersion: number
    createdAtMs: number
    changeNumber: number
    /** AWS: made by an integration of the service. */
    manager: 'CUSTOMER' | 'AWS'
    /** JSON, as PutKeyPolicy took it. */
    policy: string
    multiRegion: 'PRIMARY' | 'REPLICA' | null
    /** Of a multi-Region key: where this row's key is. Null: the catalog's own region. */
    region: string | null
    /** When its waiting period ends; null unless deletion is scheduled. */
    deletionAtMs: number | null
    pendingWindowDays: number | null
    /** Automatic rotation; null where it is off. */
    rotationPeriodDays: number | null
    nextRotationAtMs: number | null
    /** What its key store knows the key by that was there before; null where the store made it. */
    externalKeyId: string | null
  }
  keyMaterials: {
    kmsKeyId: string
    version: number
    /** What the key store keeps; null is a tombstone: destroyed, and a restore honours it. */
    stored: Uint8Array | null
    createdAtMs: number
    destroyedAtMs: number | null
    /** SubjectPublicKeyInfo (RFC 5280) of an asymmetric key. */
    publicKey: Uint8Array | null
    /** How this version came to be, if not with the key itself. */
    rotation: 'AUTOMATIC' | 'ON_DEMAND' | null
    /** Imported material: when it expires (null: never), and how it is known again when it is imported anew. */
    validToMs: number | null
    fingerprint: Uint8Array | null
    description: string | null
  }
  /** Material that the catalog has destroyed, and its key store is still to. */
  materialsToDestroy: {
    /** `KEYID/VERSION`, and `/` and the start of SHA-256 of `stored` where no KMS key ever had it. */
    id: string
    kmsKeyId: string
    version: number
    keyStore: string
    keySpec: string
    stored: Uint8Array
    publicKey: Uint8Array | null
  }
  aliases: {
    /** `alias/NAME`, and `@REGION` behind it outside the catalog's own region. */
    name: string
    kmsKeyId: string
    createdAtMs: number
    updatedAtMs: number
    changeNumber: number
  }
  tags: { kmsKeyId: string; key: string; value: string }
  tokens: {
    id: string
    name: string
    /** SHA-256 of the secret; the secret has 256 random bits, so no slow hash is needed. */
    secretHash: Uint8Array
    principalArn: string
    /** JSON arrays of patterns. */
    actions: string
    keys: string
    createdAtMs: number
    expiresAtMs: number | null
    revokedAtMs: number | null
    changeNumber: number
  }
  grants: {
    id: string
    kmsKeyId: string
    granteePrincipal: string
    retiringPrincipal: string | null
    /** JSON array of operations. */
    operations: string
    /** JSON {equals?, subset?} of string maps. */
    constraints: string
    name: string | null
    /** The account of whoever created it. */
    issuingAccount: string
    createdAtMs: number
    changeNumber: number
  }
  /** Keys of AWS Signature Version 4. Verifying needs the secret itself, so it is sealed, not hashed. */
  accessKeys: {
    id: string
    principalArn: string
    /** Empty once the key is revoked. */
    sealedSecret: Uint8Array
    /** SHA-256 of the session token that must come with it; null for long-lived keys. */
    sessionTokenHash: Uint8Array | null
    createdAtMs: number
    expiresAtMs: number | null
    revokedAtMs: number | null
    changeNumber: number
    /** It signs requests of the XKS proxy API below this prefix, '' or `/a/b`, and no others; null: of AWS KMS. */
    xksPrefix: string | null
  }
  /** Policies attached to a principal (IAM's identity-based policies). */
  identityPolicies: {
    principalArn: string
    name: string
    document: string
    changeNumber: number
  }
  /** Key stores beside the local one. A KMS key names its own by id. */
  keyStores: {
    id: string
    name: string
    kind: 'pkcs11' | 'xks' | 'aws-kms' | 'transit'
    /** JSON object of strings, without secrets. */
    settings: string
    sealedSecret: Uint8Array | null
    /** CONNECTING and CONNECTED: to be connected again at the next start. */
    connectionState: 'CONNECTED' | 'CONNECTING' | 'DISCONNECTED' | 'FAILED'
    /** Why it is FAILED. */
    connectionErrorCode: string | null
    /** 1: what is open of its keys may serve on while it is not connected. */
    keepsOpenKeys: 0 | 1
    createdAtMs: number
    changeNumber: number
  }
  /** Wrapping keys of GetParametersForImport, until they are used or run out. */
  importParameters: {
    tokenHash: Uint8Array
    kmsKeyId: string
    wrappingAlgorithm: string
    sealedPrivateKey: Uint8Array
    expiresAtMs: number
  }
  /** What was done under each version of key material, flushed in batches. */
  keyUses: {
    kmsKeyId: string
    version: number
    messages: number
    bytes: number
    lastUsedAtMs: number
    lastOperation: string
  }
  /**
   * Wraps under each version of key material that processes have taken for themselves, used or not, where a store bounds
   * how many there may be. Rows are never deleted: the same material may be imported again under its old number.
   */
  wrapReservations: { kmsKeyId: string; version: number; reserved: number }
  /** Which migrations ran, and whether nodes that do not know them may go on. */
  migrations: { name: string; ranAtMs: number; compatible: Generated<number> }
  /** The nodes that hold a lease, or did: membership.ts. */
  nodes: {
    id: string
    startedAtMs: number
    /** Every change up to this number is in force there. */
    confirmed: number
    /** Grows with every poll. */
    renewals: number
    /** The newest root key that it has, whether or not that is in use yet. */
    rootVersion: number
  }
  /** Rows that are gone and that nodes may remember; the others carry the number of their last change. */
  removals: {
    changeNumber: number
    kind: 'kmsKey' | 'identityPolicy'
    /** The row's id, or `PRINCIPAL NAME`. */
    name: string
  }
  /** Of a shared catalog, what destroyed.log is to an embedded one. */
  destroyed: {
    kmsKeyId: string
    /** 0: the key with all of its material. */
    version: number
    /** SHA-256 of what the catalog kept, hex; '' of a key. */
    hash: string
    /** 1 where nothing of it is left in the table's file. */
    scrubbed: number
  }
  /** Of a shared catalog: what else stands beside the root key in the data directory. */
  rootFiles: { name: string; content: string }
}
