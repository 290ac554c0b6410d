/**
 * What lies in the catalog under an older root key is sealed under the present one, page by page: a transaction each, so
 * that a crash repeats one page at most. Whoever calls it sees to it that nobody else seals under the older one, and
 * that both root keys are at hand.
 */
import type { Catalog, CatalogTransaction } from '../catalog/catalog.ts'
import {
  findSealed,
  readSealedAccessKeys,
  readSealedImports,
  readSealedKeyStores,
  readSealedMaterials,
  replaceSealedAccessKey,
  replaceSealedImport,
  replaceSealedKeyStore,
  replaceSealedMaterial,
  type SealedAccessKeyRow,
  type SealedImportRow,
  type SealedKeyStoreRow,
  type SealedMaterialRow,
  type SealedRange,
} from '../catalog/resealing.ts'
import type { KeySpec } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import { sealedMaterialPrefix } from '../format/key-material.ts'
import { sealedSecretPrefix } from '../format/sealed-secret.ts'
import type { LocalKeyStore } from '../key-stores/local.ts'
import type { SecretSealer } from '../key-stores/secret-sealer.ts'
import { ROOT_ROTATION_PAGE } from '../limits.ts'
import { accessKeyPlace } from './access-keys.ts'
import { importParametersPlace } from './imports.ts'
import { secretPlace } from './key-store-record.ts'
import { keyIdBytes } from './reference.ts'

interface Sealers {
  readonly keyStore: LocalKeyStore
  readonly secretSealer: SecretSealer
}

/** One kind of row that holds something sealed. */
interface Kind<Row extends object> {
  readonly name: string
  readonly read: (
    transaction: CatalogTransaction,
    after: Row | undefined,
  ) => Promise<readonly Row[]>
  /** Seals it anew and puts it in its place. */
  readonly reseal: (transaction: CatalogTransaction, row: Row) => Promise<void>
}

/**
 * Errors: ROOT_KEY_INVALID, where a row does not open (nothing of it is changed, and no root key may go before it does);
 * INTERNAL, where something is left that nobody here knows of.
 */
export async function resealCatalog(
  catalog: Catalog,
  sealers: Sealers,
  rootVersion: number,
  log: (message: string) => void,
): Promise<void> {
  const older = rangesBefore(rootVersion)
  await resealAll(catalog, materials(sealers, older.material), log)
  await resealAll(catalog, accessKeys(sealers, older.secret), log)
  await resealAll(catalog, imports(sealers, older.secret), log)
  await resealAll(catalog, keyStores(sealers, older.secret), log)
  const left = await findOlder(catalog.db, rootVersion)
  if (left.length === 0) return
  throw new KeyfoldError('INTERNAL', `sealed under an older root key: ${left.join(', ')}`)
}

/** The columns that hold something sealed before this version of the root key. */
export async function findOlder(
  db: Catalog['db'] | CatalogTransaction,
  rootVersion: number,
): Promise<readonly string[]> {
  const { material, secret } = rangesBefore(rootVersion)
  return findSealed(db, [material, secret])
}

async function resealAll<Row extends object>(
  catalog: Catalog,
  { name, read, reseal }: Kind<Row>,
  log: (message: string) => void,
): Promise<void> {
  let after: Row | undefined
  let sealed = 0
  for (;;) {
    const rows = await catalog.change(async (transaction) => {
      const page = await read(transaction, after)
      for (const row of page) {
        try {
          await reseal(transaction, row)
        } catch (cause) {
          if (!(cause instanceof KeyfoldError)) throw cause
          throw new KeyfoldError(cause.code, `${name}: ${nameOf(row)}`, cause)
        }
      }
      return page
    })
    if (rows.length === 0) return
    sealed += rows.length
    log(`${name}: ${sealed} sealed anew`)
    after = rows.at(-1)
  }
}

function materials({ keyStore }: Sealers, range: SealedRange): Kind<SealedMaterialRow> {
  return {
    name: 'key material',
    read: (transaction, after = { kmsKeyId: '', version: 0 } as SealedMaterialRow) =>
      readSealedMaterials(transaction, keyStore.name, range, after, ROOT_ROTATION_PAGE),
    reseal: async (transaction, row) => {
      const stored = keyStore.reseal({
        kmsKeyId: keyIdBytes(row.kmsKeyId),
        version: row.version,
        keySpec: row.keySpec as KeySpec,
        stored: row.stored,
        publicKey: undefined,
      })
      await replaceSealedMaterial(transaction, row, stored)
    },
  }
}

function accessKeys({ secretSealer }: Sealers, range: SealedRange): Kind<SealedAccessKeyRow> {
  return {
    name: 'access keys',
    read: (transaction, after) =>
      readSealedAccessKeys(transaction, range, after?.id ?? '', ROOT_ROTATION_PAGE),
    reseal: (transaction, { sealedSecret, xksPrefix, ...accessKey }) => {
      const place = accessKeyPlace({ ...accessKey, xksPrefix: xksPrefix ?? undefined })
      return replaceSealedAccessKey(
        transaction,
        accessKey.id,
        secretSealer.reseal(place, sealedSecret),
      )
    },
  }
}

function keyStores({ secretSealer }: Sealers, range: SealedRange): Kind<SealedKeyStoreRow> {
  return {
    name: 'key stores',
    read: (transaction, after) =>
      readSealedKeyStores(transaction, range, after?.id ?? '', ROOT_ROTATION_PAGE),
    reseal: (transaction, row) => {
      const sealed = secretSealer.reseal(secretPlace(row), row.sealedSecret)
      return replaceSealedKeyStore(transaction, row.id, sealed)
    },
  }
}

function imports({ secretSealer }: Sealers, range: SealedRange): Kind<SealedImportRow> {
  return {
    name: 'import parameters',
    read: (transaction, after) => {
      const tokenHash = after?.tokenHash ?? new Uint8Array(0)
      return readSealedImports(transaction, range, tokenHash, ROOT_ROTATION_PAGE)
    },
    reseal: (transaction, row) => {
      const sealed = secretSealer.reseal(importParametersPlace(row), row.sealedPrivateKey)
      return replaceSealedImport(transaction, row.tokenHash, sealed)
    },
  }
}

function rangesBefore(rootVersion: number): {
  readonly material: SealedRange
  readonly secret: SealedRange
} {
  return {
    material: { from: sealedMaterialPrefix(0), to: sealedMaterialPrefix(rootVersion) },
    secret: { from: sealedSecretPrefix(0), to: sealedSecretPrefix(rootVersion) },
  }
}

/** What tells an operator which row it is. */
function nameOf(row: object): string {
  const { kmsKeyId, version, id } = row as Partial<SealedMaterialRow & SealedAccessKeyRow>
  return [kmsKeyId ?? id, version].filter((part) => part !== undefined).join(' version ')
}
