/**
 * How the tables of schema.ts come about, step by step. A step that has been released is never changed; new ones
 * are added below it. Each runs in a transaction with its own name in `migrations`, which is written first: of nodes
 * that start together one runs it, and the others wait for that row and find it done.
 *
 * A step that older nodes can live with says so: they go on serving, and may still be started. After any other step
 * they refuse to start, and those that run stop serving.
 */
import { sql, type Kysely, type Transaction } from 'kysely'

import { KeyfoldError } from '../errors.ts'
import type { CatalogTables } from './schema.ts'

export interface Migration {
  readonly name: string
  readonly up: (transaction: Transaction<CatalogTables>) => Promise<void>
  /** Nodes of before this step may go on: it only adds what they do not read and need not write. */
  readonly compatible?: true
}

const MIGRATIONS: readonly Migration[] = [
  { name: '0001-kms-keys-and-tokens', up: createTables },
  { name: '0002-control-plane', up: addControlPlane },
  { name: '0003-due-moments', up: addDueMoments },
  { name: '0004-grant-issuers', up: addGrantIssuers },
  { name: '0005-key-stores', up: addKeyStores },
  { name: '0006-wrap-reservations', up: addWrapReservations },
  { name: '0007-nodes', up: addNodes },
  { name: '0008-xks-proxy', up: addXksPrefixes },
  { name: '0009-root-versions-of-nodes', up: addRootVersions },
]

/** With it came the column that says what older nodes may do. */
const WITH_COMPATIBLE = '0007-nodes'

/**
 * Runs what has not run yet. A catalog that needs a newer keyfold is refused rather than misread. Answers whether older
 * nodes have to stop for what ran.
 */
export async function migrate(
  db: Kysely<CatalogTables>,
  migrations: readonly Migration[] = MIGRATIONS,
): Promise<boolean> {
  await createList(db)
  const ran = await readRan(db)
  assertUnderstood(ran, migrations)
  let withCompatible = ran.has(WITH_COMPATIBLE)
  let stopsOthers = false
  for (const { name, up, compatible } of migrations) {
    withCompatible ||= name === WITH_COMPATIBLE
    if (ran.has(name)) continue
    const set = withCompatible && compatible === true
    stopsOthers ||= ran.size > 0 && !set
    await db.transaction().execute(async (transaction) => {
      const first = await transaction
        .insertInto('migrations')
        .values({ name, ranAtMs: Date.now() })
        .onConflict((conflict) => conflict.column('name').doNothing())
        .returning('name')
        .executeTakeFirst()
      if (first === undefined) return
      await up(transaction)
      if (!set) return
      await transaction
        .updateTable('migrations')
        .set({ compatible: 1 })
        .where('name', '=', name)
        .execute()
    })
  }
  return stopsOthers
}

/** Throws where a newer node has changed the catalog so that this one would misread it. */
export async function assertMigrationsUnderstood(
  db: Kysely<CatalogTables>,
  migrations: readonly Migration[] = MIGRATIONS,
): Promise<void> {
  assertUnderstood(await readRan(db), migrations)
}

async function createList(db: Kysely<CatalogTables>): Promise<void> {
  const create = (): Promise<void> =>
    db.schema
      .createTable('migrations')
      .ifNotExists()
      .addColumn('name', 'text', (column) => column.primaryKey())
      .addColumn('ranAtMs', 'bigint', (column) => column.notNull())
      .execute()
  // PostgreSQL looks and then makes: the slower of two nodes fails once, and then finds the table.
  await create().catch(create)
}

/** By name, whether older nodes may go on. */
async function readRan(db: Kysely<CatalogTables>): Promise<ReadonlyMap<string, boolean>> {
  const rows = await db.selectFrom('migrations').selectAll().execute()
  return new Map(rows.map(({ name, compatible }) => [name, compatible === 1]))
}

function assertUnderstood(
  ran: ReadonlyMap<string, boolean>,
  migrations: readonly Migration[],
): void {
  const known = new Set(migrations.map(({ name }) => name))
  for (const [name, compatible] of ran) {
    if (known.has(name) || compatible) continue
    throw new KeyfoldError(
      'CATALOG_UNAVAILABLE',
      `the catalog was written by a newer keyfold (${name})`,
    )
  }
}

async function createTables(transaction: Transaction<CatalogTables>): Promise<void> {
  const { schema } = transaction
  await schema
    .createTable('catalog')
    .addColumn('id', 'integer', (column) => column.primaryKey().check(sql`"id" = 1`))
    .addColumn('region', 'text', (column) => column.notNull())
    .addColumn('account', 'text', (column) => column.notNull())
    .addColumn('createdAtMs', 'bigint', (column) => column.notNull())
    .execute()
  await schema
    .createTable('changes')
    .addColumn('id', 'integer', (column) => column.primaryKey().check(sql`"id" = 1`))
    .addColumn('number', 'bigint', (column) => column.notNull())
    .execute()
  await transaction.insertInto('changes').values({ id: 1, number: 0 }).execute()
  await schema
    .createTable('kmsKeys')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('description', 'text', (column) => column.notNull())
    .addColumn('state', 'text', (column) => column.notNull())
    .addColumn('keySpec', 'text', (column) => column.notNull())
    .addColumn('keyUsage', 'text', (column) => column.notNull())
    .addColumn('origin', 'text', (column) => column.notNull())
    .addColumn('keyStore', 'text', (column) => column.notNull())
    .addColumn('currentVersion', 'integer', (column) => column.notNull())
    .addColumn('createdAtMs', 'bigint', (column) => column.notNull())
    .addColumn('changeNumber', 'bigint', (column) => column.notNull())
    .addCheckConstraint('versionIsPositive', sql`"currentVersion" >= 1`)
    .execute()
  await schema
    .createTable('keyMaterials')
    .addColumn('kmsKeyId', 'text', (column) => column.notNull().references('kmsKeys.id'))
    .addColumn('version', 'integer', (column) => column.notNull())
    .addColumn('stored', 'blob')
    .addColumn('createdAtMs', 'bigint', (column) => column.notNull())
    .addColumn('destroyedAtMs', 'bigint')
    .addPrimaryKeyConstraint('keyMaterialsKey', ['kmsKeyId', 'version'])
    .addCheckConstraint(
      'tombstoneOrMaterial',
      sql`("stored" is null) = ("destroyedAtMs" is not null)`,
    )
    .execute()
  await schema
    .createTable('aliases')
    .addColumn('name', 'text', (column) => column.primaryKey())
    .addColumn('kmsKeyId', 'text', (column) => column.notNull().references('kmsKeys.id'))
    .addColumn('createdAtMs', 'bigint', (column) => column.notNull())
    .addColumn('updatedAtMs', 'bigint', (column) => column.notNull())
    .addColumn('changeNumber', 'bigint', (column) => column.notNull())
    .execute()
  await schema.createIndex('aliasesOfKey').on('aliases').column('kmsKeyId').execute()
  await schema
    .createTable('tags')
    .addColumn('kmsKeyId', 'text', (column) => column.notNull().references('kmsKeys.id'))
    .addColumn('key', 'text', (column) => column.notNull())
    .addColumn('value', 'text', (column) => column.notNull())
    .addPrimaryKeyConstraint('tagsKey', ['kmsKeyId', 'key'])
    .execute()
  await schema
    .createTable('tokens')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('secretHash', 'blob', (column) => column.notNull())
    .addColumn('principalArn', 'text', (column) => column.notNull())
    .addColumn('actions', 'text', (column) => column.notNull())
    .addColumn('keys', 'text', (column) => column.notNull())
    .addColumn('createdAtMs', 'bigint', (column) => column.notNull())
    .addColumn('expiresAtMs', 'bigint')
    .addColumn('revokedAtMs', 'bigint')
    .addColumn('changeNumber', 'bigint', (column) => column.notNull())
    .execute()
}

/** Policies, grants, access keys, rotation, deletion, imports and usage. */
async function addControlPlane(transaction: Transaction<CatalogTables>): Promise<void> {
  const { schema } = transaction
  const addKeyColumn = (
    name: string,
    type: 'text' | 'bigint' | 'integer',
    initial?: string,
  ): Promise<void> =>
    schema
      .alterTable('kmsKeys')
      .addColumn(name, type, (column) =>
        initial === undefined ? column : column.notNull().defaultTo(initial),
      )
      .execute()
  await addKeyColumn('manager', 'text', 'CUSTOMER')
  await addKeyColumn('policy', 'text', '')
  await addKeyColumn('multiRegion', 'text')
  await addKeyColumn('region', 'text')
  await addKeyColumn('deletionAtMs', 'bigint')
  await addKeyColumn('pendingWindowDays', 'integer')
  await addKeyColumn('rotationPeriodDays', 'integer')
  await addKeyColumn('nextRotationAtMs', 'bigint')
  // Keys that are there already get the policy that CreateKey gives without one.
  const { account } = (await transaction
    .selectFrom('catalog')
    .select('account')
    .executeTakeFirst()) ?? { account: '' }
  await transaction
    .updateTable('kmsKeys')
    .set({ policy: policyOfFirstKeys(account) })
    .execute()
  for (const [name, type] of [
    ['publicKey', 'blob'],
    ['rotation', 'text'],
    ['validToMs', 'bigint'],
    ['fingerprint', 'blob'],
    ['description', 'text'],
  ] as const) {
    await schema.alterTable('keyMaterials').addColumn(name, type).execute()
  }
  await schema
    .createTable('grants')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('kmsKeyId', 'text', (column) => column.notNull().references('kmsKeys.id'))
    .addColumn('granteePrincipal', 'text', (column) => column.notNull())
    .addColumn('retiringPrincipal', 'text')
    .addColumn('operations', 'text', (column) => column.notNull())
    .addColumn('constraints', 'text', (column) => column.notNull())
    .addColumn('name', 'text')
    .addColumn('tokenHash', 'blob', (column) => column.notNull())
    .addColumn('createdAtMs', 'bigint', (column) => column.notNull())
    .addColumn('changeNumber', 'bigint', (column) => column.notNull())
    .execute()
  await schema.createIndex('grantsOfKey').on('grants').columns(['kmsKeyId', 'id']).execute()
  await schema
    .createIndex('grantsToRetire')
    .on('grants')
    .columns(['retiringPrincipal', 'id'])
    .execute()
  await schema
    .createTable('accessKeys')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('principalArn', 'text', (column) => column.notNull())
    .addColumn('sealedSecret', 'blob', (column) => column.notNull())
    .addColumn('sessionTokenHash', 'blob')
    .addColumn('createdAtMs', 'bigint', (column) => column.notNull())
    .addColumn('expiresAtMs', 'bigint')
    .addColumn('revokedAtMs', 'bigint')
    .addColumn('changeNumber', 'bigint', (column) => column.notNull())
    .execute()
  await schema
    .createTable('identityPolicies')
    .addColumn('principalArn', 'text', (column) => column.notNull())
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('document', 'text', (column) => column.notNull())
    .addColumn('changeNumber', 'bigint', (column) => column.notNull())
    .addPrimaryKeyConstraint('identityPoliciesKey', ['principalArn', 'name'])
    .execute()
  await schema
    .createTable('importParameters')
    .addColumn('tokenHash', 'blob', (column) => column.primaryKey())
    .addColumn('kmsKeyId', 'text', (column) => column.notNull().references('kmsKeys.id'))
    .addColumn('wrappingAlgorithm', 'text', (column) => column.notNull())
    .addColumn('sealedPrivateKey', 'blob', (column) => column.notNull())
    .addColumn('expiresAtMs', 'bigint', (column) => column.notNull())
    .execute()
  await schema
    .createTable('keyUses')
    .addColumn('kmsKeyId', 'text', (column) => column.notNull().references('kmsKeys.id'))
    .addColumn('version', 'integer', (column) => column.notNull())
    .addColumn('messages', 'bigint', (column) => column.notNull())
    .addColumn('bytes', 'bigint', (column) => column.notNull())
    .addColumn('lastUsedAtMs', 'bigint', (column) => column.notNull())
    .addColumn('lastOperation', 'text', (column) => column.notNull())
    .addPrimaryKeyConstraint('keyUsesKey', ['kmsKeyId', 'version'])
    .execute()
}

/** What is due is found among the keys that wait for something, which are few. */
async function addDueMoments(transaction: Transaction<CatalogTables>): Promise<void> {
  for (const [index, table, column] of [
    ['kmsKeysToDelete', 'kmsKeys', 'deletionAtMs'],
    ['kmsKeysToRotate', 'kmsKeys', 'nextRotationAtMs'],
    ['keyMaterialsToExpire', 'keyMaterials', 'validToMs'],
  ] as const) {
    await transaction.schema
      .createIndex(index)
      .on(table)
      .column(column)
      .where(sql.ref(column), 'is not', null)
      .execute()
  }
}

/** Before this step nothing made grants: there are no rows. A grant token names its grant, and needs no column. */
async function addGrantIssuers(transaction: Transaction<CatalogTables>): Promise<void> {
  const { schema } = transaction
  await schema.alterTable('grants').dropColumn('tokenHash').execute()
  await schema
    .alterTable('grants')
    .addColumn('issuingAccount', 'text', (column) => column.notNull().defaultTo(''))
    .execute()
}

/** Before this step every key was in the local store. */
async function addKeyStores(transaction: Transaction<CatalogTables>): Promise<void> {
  const { schema } = transaction
  await schema
    .createTable('keyStores')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('name', 'text', (column) => column.notNull().unique())
    .addColumn('kind', 'text', (column) => column.notNull())
    .addColumn('settings', 'text', (column) => column.notNull())
    .addColumn('sealedSecret', 'blob')
    .addColumn('connectionState', 'text', (column) => column.notNull())
    .addColumn('connectionErrorCode', 'text')
    .addColumn('keepsOpenKeys', 'integer', (column) => column.notNull())
    .addColumn('createdAtMs', 'bigint', (column) => column.notNull())
    .addColumn('changeNumber', 'bigint', (column) => column.notNull())
    .execute()
  await schema
    .createTable('materialsToDestroy')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('kmsKeyId', 'text', (column) => column.notNull())
    .addColumn('version', 'integer', (column) => column.notNull())
    .addColumn('keyStore', 'text', (column) => column.notNull())
    .addColumn('keySpec', 'text', (column) => column.notNull())
    .addColumn('stored', 'blob', (column) => column.notNull())
    .addColumn('publicKey', 'blob')
    .execute()
  await schema.alterTable('kmsKeys').addColumn('externalKeyId', 'text').execute()
  await schema
    .createIndex('kmsKeysOfStore')
    .on('kmsKeys')
    .columns(['keyStore', 'externalKeyId'])
    .where('keyStore', '!=', 'local')
    .execute()
}

/** Access keys that are there already sign requests of AWS KMS. */
async function addXksPrefixes({ schema }: Transaction<CatalogTables>): Promise<void> {
  await schema.alterTable('accessKeys').addColumn('xksPrefix', 'text').execute()
}

async function addWrapReservations(transaction: Transaction<CatalogTables>): Promise<void> {
  await transaction.schema
    .createTable('wrapReservations')
    .addColumn('kmsKeyId', 'text', (column) => column.notNull().references('kmsKeys.id'))
    .addColumn('version', 'integer', (column) => column.notNull())
    .addColumn('reserved', 'bigint', (column) => column.notNull())
    .addPrimaryKeyConstraint('wrapReservationsKey', ['kmsKeyId', 'version'])
    .execute()
}

/** Several nodes on one catalog. Nodes of before do not follow what others change, so that none may go on. */
async function addNodes(transaction: Transaction<CatalogTables>): Promise<void> {
  const { schema } = transaction
  await schema
    .alterTable('migrations')
    .addColumn('compatible', 'integer', (column) => column.notNull().defaultTo(0))
    .execute()
  await schema
    .createTable('nodes')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('startedAtMs', 'bigint', (column) => column.notNull())
    .addColumn('confirmed', 'bigint', (column) => column.notNull())
    .addColumn('renewals', 'bigint', (column) => column.notNull())
    .execute()
  await schema
    .createTable('removals')
    .addColumn('changeNumber', 'bigint', (column) => column.notNull())
    .addColumn('kind', 'text', (column) => column.notNull())
    .addColumn('name', 'text', (column) => column.notNull())
    .addPrimaryKeyConstraint('removalsKey', ['changeNumber', 'kind', 'name'])
    .execute()
  await schema
    .createTable('destroyed')
    .addColumn('kmsKeyId', 'text', (column) => column.notNull())
    .addColumn('version', 'integer', (column) => column.notNull())
    .addColumn('hash', 'text', (column) => column.notNull())
    .addColumn('scrubbed', 'integer', (column) => column.notNull())
    .addPrimaryKeyConstraint('destroyedKey', ['kmsKeyId', 'version', 'hash'])
    .execute()
  await schema
    .createTable('rootFiles')
    .addColumn('name', 'text', (column) => column.primaryKey())
    .addColumn('content', 'text', (column) => column.notNull())
    .execute()
  for (const table of ['kmsKeys', 'tokens', 'accessKeys', 'identityPolicies'] as const) {
    await schema.createIndex(`${table}ByChange`).on(table).column('changeNumber').execute()
  }
}

/** Nodes of before do not follow a rotation of the root key, and would go on sealing under the one that goes. */
async function addRootVersions({ schema }: Transaction<CatalogTables>): Promise<void> {
  await schema
    .alterTable('nodes')
    .addColumn('rootVersion', 'integer', (column) => column.notNull().defaultTo(1))
    .execute()
}

/** What AWS KMS gives a key that is created without a policy; written out, for this step never changes. */
function policyOfFirstKeys(account: string): string {
  const statement = {
    Sid: 'Enable IAM User Permissions',
    Effect: 'Allow',
    Principal: { AWS: `arn:aws:iam::${account}:root` },
    Action: 'kms:*',
    Resource: '*',
  }
  return JSON.stringify({ Version: '2012-10-17', Id: 'key-default-1', Statement: [statement] })
}
