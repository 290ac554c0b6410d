/** How raw keyrings name their keys: in UTF-8, in fields of 16-bit length, and never as AWS KMS does. */
import { KeyfoldError } from '../../errors.ts'

export const KMS_PROVIDER_ID = 'aws-kms'
/** Both names of eight keys stay far below the longest header. */
const NAME_BYTES_MAX = 1_024

/** Throws CONFIG_INVALID. */
export function checkedName(field: 'namespace' | 'name', name: string): string {
  const bytes = Buffer.byteLength(name)
  if (bytes < 1 || bytes > NAME_BYTES_MAX || /\p{Surrogate}/u.test(name)) {
    throw new KeyfoldError('CONFIG_INVALID', `${field}: 1 to ${NAME_BYTES_MAX} bytes of UTF-8`)
  }
  if (field === 'namespace' && name === KMS_PROVIDER_ID) {
    throw new KeyfoldError('CONFIG_INVALID', `namespace: ${KMS_PROVIDER_ID} is the KMS keyring's`)
  }
  return name
}
