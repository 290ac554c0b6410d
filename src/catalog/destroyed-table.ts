/**
 * What was destroyed, of a shared catalog: rows of a table that only grows, written in the transaction that destroys.
 *
 * A backup of the database from before holds the material and not the row, so that whoever restores one has to bring
 * the table with them: `pg_dump --data-only --table=destroyed` before, loaded into what was restored. Whatever in the
 * catalog it names is destroyed again when the next node starts. Backups and archived write-ahead logs themselves are
 * not ours to clear; all that they hold is sealed under the root key.
 */
import { sql, type Kysely } from 'kysely'

import type { DestroyedMaterial, DestroyedRecord } from './destroyed-log.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

/** The version of a row that stands for the whole key. */
const WHOLE_KEY = 0

export class DestroyedTable implements DestroyedRecord {
  readonly keys: ReadonlySet<string>
  readonly materials: readonly DestroyedMaterial[]

  /** Of what was destroyed that which the catalog has nevertheless: nothing, unless it was restored. */
  static async open(db: Queries): Promise<DestroyedTable> {
    const rows = await db
      .selectFrom('destroyed')
      .leftJoin('keyMaterials', (join) =>
        join
          .onRef('keyMaterials.kmsKeyId', '=', 'destroyed.kmsKeyId')
          .on((on) =>
            on.or([
              on('destroyed.version', '=', WHOLE_KEY),
              on('destroyed.version', '=', on.ref('keyMaterials.version')),
            ]),
          ),
      )
      .innerJoin('kmsKeys', 'kmsKeys.id', 'destroyed.kmsKeyId')
      .select(['destroyed.kmsKeyId', 'destroyed.version', 'destroyed.hash'])
      .distinct()
      .where((where) =>
        where.or([
          where('keyMaterials.stored', 'is not', null),
          where.and([
            where('destroyed.version', '!=', WHOLE_KEY),
            where('keyMaterials.version', 'is', null),
          ]),
          where.and([
            where('destroyed.version', '=', WHOLE_KEY),
            where('kmsKeys.state', '!=', 'Deleted'),
          ]),
        ]),
      )
      .execute()
    return new DestroyedTable(
      rows.filter(({ version }) => version === WHOLE_KEY).map(({ kmsKeyId }) => kmsKeyId),
      rows.filter(({ version }) => version !== WHOLE_KEY),
    )
  }

  private constructor(keys: readonly string[], materials: readonly DestroyedMaterial[]) {
    this.keys = new Set(keys)
    this.materials = materials
  }

  get isEmpty(): boolean {
    return this.keys.size === 0 && this.materials.length === 0
  }

  async recordKey(kmsKeyId: string, transaction: Queries): Promise<void> {
    await this.#record([{ kmsKeyId, version: WHOLE_KEY, hash: '' }], transaction)
  }

  async recordMaterials(
    materials: readonly DestroyedMaterial[],
    transaction: Queries,
  ): Promise<void> {
    if (materials.length > 0) await this.#record(materials, transaction)
  }

  async mustScrub(db: Queries): Promise<void> {
    for (const kmsKeyId of [...this.keys, ...this.materials.map((material) => material.kmsKeyId)]) {
      await db
        .updateTable('destroyed')
        .set({ scrubbed: 0 })
        .where('kmsKeyId', '=', kmsKeyId)
        .execute()
    }
  }

  async #record(rows: readonly DestroyedMaterial[], transaction: Queries): Promise<void> {
    await transaction
      .insertInto('destroyed')
      .values(rows.map((row) => ({ ...row, scrubbed: 0 })))
      .onConflict((conflict) =>
        conflict.columns(['kmsKeyId', 'version', 'hash']).doUpdateSet({ scrubbed: 0 }),
      )
      .execute()
  }
}

/**
 * Leaves nothing of what was destroyed in the table's file. VACUUM alone only frees its place; FULL writes the table
 * anew. It keeps readers of the table waiting for that long, and gives up where it would itself wait for them.
 */
export async function scrubTable(db: Queries): Promise<void> {
  const due = await db
    .selectFrom('destroyed')
    .select(['kmsKeyId', 'version', 'hash'])
    .where('scrubbed', '=', 0)
    .execute()
  if (due.length === 0) return
  await sql`vacuum full "keyMaterials"`.execute(db)
  for (const { kmsKeyId, version, hash } of due) {
    await db
      .updateTable('destroyed')
      .set({ scrubbed: 1 })
      .where('kmsKeyId', '=', kmsKeyId)
      .where('version', '=', version)
      .where('hash', '=', hash)
      .execute()
  }
}
