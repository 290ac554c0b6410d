/** Policies of principals in the catalog: documents as they were put, read whole when the service starts. */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export type StoredIdentityPolicy = Readonly<Omit<CatalogTables['identityPolicies'], 'changeNumber'>>

export async function readIdentityPolicies(db: Queries): Promise<readonly StoredIdentityPolicy[]> {
  return db
    .selectFrom('identityPolicies')
    .select(['principalArn', 'name', 'document'])
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
): Promise<void> {
  await db
    .deleteFrom('identityPolicies')
    .where('principalArn', '=', principalArn)
    .where('name', '=', name)
    .execute()
}
