/** Aliases: names of keys that can move from one key to another. */
import type { CatalogTransaction } from '../catalog/catalog.ts'
import * as catalogKeys from '../catalog/keys.ts'
import { KeyfoldError } from '../errors.ts'
import { ALIASES_PER_KEY_MAX } from '../limits.ts'
import {
  pageLimit,
  pageOf,
  regionColumn,
  type KmsParts,
  type Page,
  type PageRequest,
} from './parts.ts'
import { aliasArn, checkAliasName } from './reference.ts'
import { readExisting } from './key-record.ts'

export interface AliasEntry {
  readonly name: string
  readonly keyId: string
  readonly arn: string
  readonly createdAtMs: number
  readonly updatedAtMs: number
}

export class Aliases {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  async create(alias: string, reference: string): Promise<void> {
    const { registry } = this.#parts
    checkAliasName(alias)
    const kmsKey = await registry.resolve(reference)
    const row = registry.rowOfAlias(alias, kmsKey.region)
    await registry.change(kmsKey.id, 'CreateAlias', (transaction, changeNumber) =>
      insertNewAlias(
        transaction,
        { name: row, kmsKeyId: kmsKey.id },
        this.#parts.nowMs(),
        changeNumber,
      ),
    )
    registry.setAlias(alias, kmsKey.region, kmsKey.id)
  }

  async update(alias: string, reference: string): Promise<void> {
    const { registry } = this.#parts
    checkAliasName(alias)
    const kmsKey = await registry.resolve(reference)
    const row = registry.rowOfAlias(alias, kmsKey.region)
    let movedFrom = kmsKey.id
    await registry.change(kmsKey.id, 'UpdateAlias', async (transaction, changeNumber, now) => {
      movedFrom = (await readExistingAlias(transaction, row)).kmsKeyId
      const from = await readExisting(transaction, movedFrom)
      // AWS KMS, UpdateAlias: both keys are of one type and one use, or old ciphertexts would meet the wrong key.
      if (from.keyUsage !== now.keyUsage || isSymmetric(from) !== isSymmetric(now)) {
        throw new KeyfoldError('KMS_KEY_STATE_INVALID', 'an alias moves between keys of one type')
      }
      if (movedFrom !== kmsKey.id) await assertRoomForAlias(transaction, kmsKey.id)
      const moved = { name: row, kmsKeyId: kmsKey.id }
      await catalogKeys.updateAlias(transaction, moved, this.#parts.nowMs(), changeNumber)
      await catalogKeys.touchKeys(transaction, [movedFrom], changeNumber)
    })
    // The other key's record still lists the alias.
    if (movedFrom !== kmsKey.id) registry.forget(movedFrom)
    registry.setAlias(alias, kmsKey.region, kmsKey.id)
  }

  async delete(alias: string, region: string = this.#parts.catalog.region): Promise<void> {
    const { catalog, registry } = this.#parts
    const row = registry.rowOfAlias(alias, region)
    const { kmsKeyId } = await readExistingAlias(catalog.db, row)
    await registry.change(kmsKeyId, 'DeleteAlias', async (transaction) => {
      const now = await readExistingAlias(transaction, row)
      // Somebody moved it meanwhile: it is not the alias that was to be deleted.
      if (now.kmsKeyId !== kmsKeyId) throw new KeyfoldError('ALIAS_NOT_FOUND')
      await catalogKeys.deleteAlias(transaction, row)
    })
    registry.setAlias(alias, region, undefined)
  }

  async list(
    request: PageRequest & { readonly key?: string | undefined } = {},
  ): Promise<Page<AliasEntry>> {
    const { catalog, registry } = this.#parts
    const limit = pageLimit(request.limit)
    const kmsKey = request.key === undefined ? undefined : await registry.resolve(request.key)
    const region = kmsKey?.region ?? request.region ?? catalog.region
    const rows = await catalogKeys.listAliases(catalog.db, {
      afterName: request.marker === undefined ? '' : registry.rowOfAlias(request.marker, region),
      limit: limit + 1,
      kmsKeyId: kmsKey?.id,
      region: regionColumn(this.#parts, region),
    })
    const entries = rows.map(({ name: row, kmsKeyId, createdAtMs, updatedAtMs }) => {
      const [name = row] = row.split('@')
      const arn = aliasArn(name, { region, account: catalog.account })
      return { name, keyId: catalogKeys.materialOwner(kmsKeyId), arn, createdAtMs, updatedAtMs }
    })
    return pageOf(entries, limit, ({ name }) => name)
  }
}

type Queries = Parameters<typeof catalogKeys.readKey>[0]

function isSymmetric({ keySpec }: { readonly keySpec: string }): boolean {
  return keySpec === 'SYMMETRIC_DEFAULT' || keySpec.startsWith('HMAC_')
}

async function readExistingAlias(db: Queries, row: string): Promise<catalogKeys.StoredAlias> {
  const stored = await catalogKeys.readAlias(db, row)
  if (stored === undefined) throw new KeyfoldError('ALIAS_NOT_FOUND')
  return stored
}

/** Within the transaction that creates its key, or in one of its own. */
export async function insertNewAlias(
  transaction: CatalogTransaction,
  alias: catalogKeys.StoredAlias,
  nowMs: number,
  changeNumber: number,
): Promise<void> {
  if ((await catalogKeys.readAlias(transaction, alias.name)) !== undefined) {
    throw new KeyfoldError('ALIAS_EXISTS')
  }
  await assertRoomForAlias(transaction, alias.kmsKeyId)
  await catalogKeys.insertAlias(transaction, alias, nowMs, changeNumber)
}

async function assertRoomForAlias(transaction: CatalogTransaction, id: string): Promise<void> {
  if ((await catalogKeys.countAliases(transaction, id)) >= ALIASES_PER_KEY_MAX) {
    throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${ALIASES_PER_KEY_MAX} aliases a key`)
  }
}
