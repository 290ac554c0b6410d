/** Policies of principals in the catalog: documents as they were put, read whole when the service starts. */
import type { Kysely } from 'kysely'

import { recordRemoval } from './removals.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export type StoredIdentityPolicy = Readonly<Omit<CatalogTables['identityPolicies'], 'changeNumber'>>

/** `since`: those that a change after this one has put. */
export async function readIdentityPolicies(
  db: Queries,
  since = -1,
): Promise<readonly StoredIdentityPolicy[]> {
  return db
    .selectFrom('identityPolicies')
    .select(['principalArn', 'name', 'document'])
    .where('changeNumber', '>', since)
    .orderBy('principalArn')
    .orderBy('name')
    .execute()
}

export async function upsertIdentityPolicy(
  db: Queries,
  policy: StoredIdentityPolicy,
  changeNumber: number,
): Promise<void> {
  const { document } = policy
  await db
    .insertInto('identityPolicies')
    .values({ ...policy, changeNumber })
    .onConflict((conflict) =>
      conflict.columns(['principalArn', 'name']).doUpdateSet({ document, changeNumber }),
    )
    .execute()
}

export async function deleteIdentityPolicy(
  db: Queries,
  { principalArn, name }: Pick<StoredIdentityPolicy, 'principalArn' | 'name'>,
  changeNumber: number,
): Promise<void> {
  await db
    .deleteFrom('identityPolicies')
    .where('principalArn', '=', principalArn)
    .where('name', '=', name)
    .execute()
  const removed = `${principalArn} ${name}`
  await recordRemoval(db, { kind: 'identityPolicy', name: removed }, changeNumber)
}
