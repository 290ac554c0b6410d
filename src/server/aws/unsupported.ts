/**
 * Operations of AWS KMS that are not here, each for a reason: whoever may ask is told so, and that it is no mistake of
 * theirs.
 */
import { KeyfoldError } from '../../errors.ts'
import { KEY_ID } from './members.ts'
import { free, type Operation } from './operation.ts'

/** ML-KEM needs OpenSSL 3.5; that of Node 20 is 3.0 (see key-spec.ts). */
const ENCAPSULATION = 'there are no keys of ENCAPSULATE_DECAPSULATE'

export const UNSUPPORTED_OPERATIONS: readonly Operation[] = ['Encapsulate', 'Decapsulate'].map(
  (name) =>
    free(name, { ...KEY_ID }, async (call, { KeyId }) => {
      await call.key(KeyId, `kms:${name}`)
      throw new KeyfoldError('OPERATION_UNSUPPORTED', ENCAPSULATION)
    }),
)
