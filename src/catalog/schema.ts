/**
 * The tables of the catalog, one schema for SQLite and PostgreSQL: text, integers of milliseconds, blobs, CHECKs;
 * no enums, sequences or advisory locks. Migrations in migrations.ts create them and are only ever added to.
 *
 * Every transaction that changes what other nodes cache adds 1 to `changes.number` in the same commit, and stamps
 * the rows it touched; a node polls that one row.
 */
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
    /** UUID or mrk-…, as text. */
    id: string
    description: string
    state: 'Enabled' | 'Disabled' | 'PendingDeletion'
    keySpec: string
    keyUsage: string
    origin: string
    keyStore: string
    currentVersion: number
    createdAtMs: number
    changeNumber: number
  }
  keyMaterials: {
    kmsKeyId: string
    version: number
    /** What the key store keeps; null is a tombstone: destroyed, and a restore honours it. */
    stored: Uint8Array | null
    createdAtMs: number
    destroyedAtMs: number | null
  }
  aliases: {
    /** Without the leading `alias/`. */
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
  /** Which migrations ran. */
  migrations: { name: string; ranAtMs: number }
}
