/**
 * The algorithm suites of the AWS Encryption SDK's message format (specification, "Algorithm Suites"). We write 0x0478
 * only; the others are read. Every suite is AES-GCM with a 12-byte IV and a 16-byte tag.
 */
export interface AlgorithmSuite {
  readonly id: number
  readonly formatVersion: 1 | 2
  /** Of the AES key, and of the data key that it is derived from. */
  readonly keyBytes: 16 | 24 | 32
  /** undefined: the data key is used as it is. */
  readonly kdfHash: 'sha256' | 'sha384' | 'sha512' | undefined
  /** Whether the header commits to the data key: without it, one file may open to two plaintexts under two keys. */
  readonly commits: boolean
  /** undefined: there is no footer. */
  readonly signature: SignatureKind | undefined
}

export type SignatureKind = 'ECDSA_P256_SHA256' | 'ECDSA_P384_SHA384'

export const SUITE_COMMITTED = 0x0478
export const SUITE_COMMITTED_SIGNED = 0x0578

const P256 = 'ECDSA_P256_SHA256'
const P384 = 'ECDSA_P384_SHA384'

const SUITES: ReadonlyMap<number, AlgorithmSuite> = new Map(
  [
    suite(SUITE_COMMITTED, 2, 32, 'sha512', undefined),
    suite(SUITE_COMMITTED_SIGNED, 2, 32, 'sha512', P384),
    suite(0x0378, 1, 32, 'sha384', P384),
    suite(0x0346, 1, 24, 'sha384', P384),
    suite(0x0214, 1, 16, 'sha256', P256),
    suite(0x0178, 1, 32, 'sha256', undefined),
    suite(0x0146, 1, 24, 'sha256', undefined),
    suite(0x0114, 1, 16, 'sha256', undefined),
    suite(0x0078, 1, 32, undefined, undefined),
    suite(0x0046, 1, 24, undefined, undefined),
    suite(0x0014, 1, 16, undefined, undefined),
  ].map((known) => [known.id, known]),
)

/** undefined: there is no such suite. */
export function algorithmSuite(id: number): AlgorithmSuite | undefined {
  return SUITES.get(id)
}

function suite(
  id: number,
  formatVersion: 1 | 2,
  keyBytes: AlgorithmSuite['keyBytes'],
  kdfHash: AlgorithmSuite['kdfHash'],
  signature: SignatureKind | undefined,
): AlgorithmSuite {
  return { id, formatVersion, keyBytes, kdfHash, commits: formatVersion === 2, signature }
}
