/**
 * How the tables of schema.ts come about, step by step. A step that has been released is never changed; new ones
 * are added below it. Each runs in a transaction with its own name in `migrations`.
 */
import { sql, type Kysely, type Transaction } from 'kysely'

import type { CatalogTables } from './schema.ts'

interface Migration {
  readonly name: string
  readonly up: (transaction: Transaction<CatalogTables>) => Promise<void>
}

const MIGRATIONS: readonly Migration[] = [
  { name: '0001-kms-keys-and-tokens', up: createTables },
  { name: '0002-control-plane', up: addControlPlane },
  { name: '0003-due-moments', up: addDueMoments },
  { name: '0004-grant-issuers', up: addGrantIssuers },
  { name: '0006-wrap-reservations', up: addWrapReservations },
  { name: '0008-xks-proxy', up: addXksPrefixes },
]

/** Runs what has not run yet. A catalog of a newer keyfold is refused rather than misread. */
export async function migrate(db: Kysely<CatalogTables>): Promise<void> {
  await db.schema
    .createTable('migrations')
    .ifNotExists()
    .addColumn('name', 'text', (column) => column.primaryKey())
    .addColumn('ranAtMs', 'bigint', (column) => column.notNull())
    .execute()
  const known = new Set(MIGRATIONS.map((migration) => migration.name))
  const ran = new Set<string>()
  for (const { name } of await db.selectFrom('migrations').select('name').execute()) {
    if (!known.has(name)) throw new Error(`the catalog was written by a newer keyfold (${name})`)
    ran.add(name)
  }
  for (const { name, up } of MIGRATIONS) {
    if (ran.has(name)) continue
    await db.transaction().execute(async (transaction) => {
      await up(transaction)
      await transaction.insertInto('migrations').values({ name, ranAtMs: Date.now() }).execute()
    })
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
