/** Counts of what was done under each version of key material. */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export type StoredKeyUse = Readonly<CatalogTables['keyUses']>

/** Adds to what is there. Uses of a key that is gone by now are dropped: nobody can ask for them. */
export async function addKeyUse(db: Queries, use: StoredKeyUse): Promise<void> {
  await db
    .insertInto('keyUses')
    .columns(['kmsKeyId', 'version', 'messages', 'bytes', 'lastUsedAtMs', 'lastOperation'])
    .expression((expression) =>
      expression
        .selectFrom('kmsKeys')
        .select(({ val }) => [
          'id',
          val(use.version).as('version'),
          val(use.messages).as('messages'),
          val(use.bytes).as('bytes'),
          val(use.lastUsedAtMs).as('lastUsedAtMs'),
          val(use.lastOperation).as('lastOperation'),
        ])
        .where('id', '=', use.kmsKeyId),
    )
    .onConflict((conflict) =>
      conflict.columns(['kmsKeyId', 'version']).doUpdateSet((expression) => {
        // Another node may have flushed a later use before this one.
        const isLater = expression(
          'excluded.lastUsedAtMs',
          '>=',
          expression.ref('keyUses.lastUsedAtMs'),
        )
        return {
          messages: expression('keyUses.messages', '+', expression.ref('excluded.messages')),
          bytes: expression('keyUses.bytes', '+', expression.ref('excluded.bytes')),
          lastUsedAtMs: expression
            .case()
            .when(isLater)
            .then(expression.ref('excluded.lastUsedAtMs'))
            .else(expression.ref('keyUses.lastUsedAtMs'))
            .end(),
          lastOperation: expression
            .case()
            .when(isLater)
            .then(expression.ref('excluded.lastOperation'))
            .else(expression.ref('keyUses.lastOperation'))
            .end(),
        }
      }),
    )
    .execute()
}

/** Of one key, ascending by version. */
export async function readKeyUses(db: Queries, kmsKeyId: string): Promise<readonly StoredKeyUse[]> {
  return db
    .selectFrom('keyUses')
    .selectAll()
    .where('kmsKeyId', '=', kmsKeyId)
    .orderBy('version')
    .execute()
}
