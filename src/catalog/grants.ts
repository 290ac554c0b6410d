/** Grants in the catalog: rows of keys, read whole with a key that is loaded and changed one by one. */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>
type GrantRow = Readonly<Omit<CatalogTables['grants'], 'changeNumber'>>

const COLUMNS = [
  'grants.id',
  'grants.kmsKeyId',
  'grants.granteePrincipal',
  'grants.retiringPrincipal',
  'grants.operations',
  'grants.constraints',
  'grants.name',
  'grants.issuingAccount',
  'grants.createdAtMs',
] as const satisfies readonly `grants.${keyof GrantRow}`[]

export interface StoredGrant extends Omit<GrantRow, 'operations' | 'constraints'> {
  readonly operations: readonly string[]
  readonly constraints: GrantConstraints
}

/** As CreateGrant takes them. */
export interface GrantConstraints {
  readonly equals?: Readonly<Record<string, string>>
  readonly subset?: Readonly<Record<string, string>>
}

export interface GrantPage {
  /** '' for the first page. */
  readonly afterId: string
  readonly limit: number
}

/** Of one key, by id. */
export async function readGrants(db: Queries, kmsKeyId: string): Promise<readonly StoredGrant[]> {
  const rows = await db
    .selectFrom('grants')
    .select(COLUMNS)
    .where('kmsKeyId', '=', kmsKeyId)
    .orderBy('id')
    .execute()
  return rows.map(storedOf)
}

export async function readGrant(db: Queries, id: string): Promise<StoredGrant | undefined> {
  const row = await db.selectFrom('grants').select(COLUMNS).where('id', '=', id).executeTakeFirst()
  return row === undefined ? undefined : storedOf(row)
}

export async function listGrants(
  db: Queries,
  filter: GrantPage & {
    readonly kmsKeyId: string
    readonly id: string | undefined
    readonly granteePrincipal: string | undefined
  },
): Promise<readonly StoredGrant[]> {
  let query = db
    .selectFrom('grants')
    .select(COLUMNS)
    .where('kmsKeyId', '=', filter.kmsKeyId)
    .where('id', '>', filter.afterId)
    .orderBy('id')
    .limit(filter.limit)
  if (filter.id !== undefined) query = query.where('id', '=', filter.id)
  if (filter.granteePrincipal !== undefined) {
    query = query.where('granteePrincipal', '=', filter.granteePrincipal)
  }
  return (await query.execute()).map(storedOf)
}

/** Over all keys of a region. */
export async function listRetirableGrants(
  db: Queries,
  filter: GrantPage & {
    readonly retiringPrincipal: string
    /** null: the catalog's own. */
    readonly region: string | null
  },
): Promise<readonly StoredGrant[]> {
  const rows = await db
    .selectFrom('grants')
    .innerJoin('kmsKeys', 'kmsKeys.id', 'grants.kmsKeyId')
    .select(COLUMNS)
    .where('grants.retiringPrincipal', '=', filter.retiringPrincipal)
    .where('grants.id', '>', filter.afterId)
    .where('kmsKeys.region', filter.region === null ? 'is' : '=', filter.region)
    .orderBy('grants.id')
    .limit(filter.limit)
    .execute()
  return rows.map(storedOf)
}

export async function insertGrant(
  db: Queries,
  { operations, constraints, ...grant }: StoredGrant,
  changeNumber: number,
): Promise<void> {
  await db
    .insertInto('grants')
    .values({
      ...grant,
      operations: JSON.stringify(operations),
      constraints: JSON.stringify(constraints),
      changeNumber,
    })
    .execute()
}

export async function deleteGrant(db: Queries, id: string): Promise<void> {
  await db.deleteFrom('grants').where('id', '=', id).execute()
}

function storedOf({ operations, constraints, ...grant }: GrantRow): StoredGrant {
  return {
    ...grant,
    operations: JSON.parse(operations) as string[],
    constraints: JSON.parse(constraints) as GrantConstraints,
  }
}
