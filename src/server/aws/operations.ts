/** Every operation of AWS KMS that is answered here, by name. */
import { ALIAS_OPERATIONS } from './aliases.ts'
import { ASYMMETRIC_OPERATIONS } from './asymmetric.ts'
import { DELETION_OPERATIONS } from './deletion.ts'
import { GRANT_OPERATIONS } from './grants.ts'
import { IMPORT_OPERATIONS } from './imports.ts'
import { KEY_STORE_OPERATIONS } from './key-stores.ts'
import { KEY_OPERATIONS } from './keys.ts'
import type { Operation } from './operation.ts'
import { POLICY_OPERATIONS } from './policies.ts'
import { REPLICA_OPERATIONS } from './replicas.ts'
import { ROTATION_OPERATIONS } from './rotation.ts'
import { SYMMETRIC_OPERATIONS } from './symmetric.ts'
import { TAG_OPERATIONS } from './tags.ts'
import { UNSUPPORTED_OPERATIONS } from './unsupported.ts'

export const OPERATIONS: ReadonlyMap<string, Operation> = new Map(
  [
    ...KEY_OPERATIONS,
    ...POLICY_OPERATIONS,
    ...ALIAS_OPERATIONS,
    ...TAG_OPERATIONS,
    ...GRANT_OPERATIONS,
    ...REPLICA_OPERATIONS,
    ...ROTATION_OPERATIONS,
    ...DELETION_OPERATIONS,
    ...SYMMETRIC_OPERATIONS,
    ...ASYMMETRIC_OPERATIONS,
    ...IMPORT_OPERATIONS,
    ...KEY_STORE_OPERATIONS,
    ...UNSUPPORTED_OPERATIONS,
  ].map((operation) => [operation.name, operation]),
)
