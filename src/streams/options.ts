/** What callers choose when they encrypt or decrypt a file or stream, checked once. */
import type { EncryptionContext } from '../client/wire.ts'
import { KeyfoldError } from '../errors.ts'
import type { AlgorithmSuite } from '../format/encryption-sdk-suites.ts'
import {
  ENCRYPTED_DATA_KEYS_DEFAULT,
  FRAME_BYTES_DEFAULT,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  SIGNED_BYTES_HELD_DEFAULT,
} from '../limits.ts'

/**
 * The AWS Encryption SDK's names. Whatever the policy, keyfold writes files that commit to their data key;
 * FORBID_ENCRYPT_ALLOW_DECRYPT therefore encrypts nothing. The ALLOW_DECRYPT policies open files of suites that do not
 * commit: such a file may open to different plaintexts under different keys.
 */
export type CommitmentPolicy =
  | 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT'
  | 'REQUIRE_ENCRYPT_ALLOW_DECRYPT'
  | 'FORBID_ENCRYPT_ALLOW_DECRYPT'

const COMMITMENT_POLICIES: readonly CommitmentPolicy[] = [
  'REQUIRE_ENCRYPT_REQUIRE_DECRYPT',
  'REQUIRE_ENCRYPT_ALLOW_DECRYPT',
  'FORBID_ENCRYPT_ALLOW_DECRYPT',
]

interface CommonOptions {
  /** REQUIRE_ENCRYPT_REQUIRE_DECRYPT where absent. */
  readonly commitmentPolicy?: CommitmentPolicy | undefined
  /** Wrappings of the data key in one file: 8 where absent. */
  readonly encryptedDataKeysMax?: number | undefined
}

export interface EncryptFileOptions extends CommonOptions {
  /** Bound to the file and, but for `requiredContextKeys`, readable in it. */
  readonly context?: EncryptionContext | undefined
  /** Keys of `context` that are authenticated and not stored: whoever decrypts must give these pairs. */
  readonly requiredContextKeys?: readonly string[] | undefined
  /** Plaintext bytes of a frame, 4 KiB to 1 MiB: 64 KiB where absent. */
  readonly frameBytes?: number | undefined
}

/** What was found out about a file, once its header has verified: for signed ones, once the signature has. */
export interface FileHeader {
  /** 0x0478, and others that were allowed. */
  readonly suiteId: number
  readonly messageId: Uint8Array
  /** Stored and required pairs alike. */
  readonly context: EncryptionContext
  /** 0: the body is one block. */
  readonly frameBytes: number
}

export interface DecryptFileOptions extends CommonOptions {
  /** Pairs that the file must have, and those that it does not store. */
  readonly context?: EncryptionContext | undefined
  /** Keys that must be in `context`: what was not stored cannot be left out by mistake. */
  readonly requiredContextKeys?: readonly string[] | undefined
  /** Plaintext bytes of a signed message that are held until its signature verifies: 32 MiB where absent. */
  readonly signedBytesMax?: number | undefined
  /** Called once, before any plaintext leaves. What it throws fails the decryption. */
  readonly onHeader?: ((header: FileHeader) => void) | undefined
}

/** Throws CONFIG_INVALID. */
export function checkEncryptOptions(options: EncryptFileOptions): { readonly frameBytes: number } {
  checkCommon(options)
  if (options.commitmentPolicy === 'FORBID_ENCRYPT_ALLOW_DECRYPT') {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      'commitmentPolicy: what does not commit is not written',
    )
  }
  const { frameBytes = FRAME_BYTES_DEFAULT } = options
  if (
    !Number.isInteger(frameBytes) ||
    frameBytes < FRAME_BYTES_MIN ||
    frameBytes > FRAME_BYTES_MAX
  ) {
    const range = `${FRAME_BYTES_MIN} to ${FRAME_BYTES_MAX}`
    throw new KeyfoldError('CONFIG_INVALID', `frameBytes: ${range} are allowed`)
  }
  return { frameBytes }
}

/** Throws CONFIG_INVALID. */
export function checkDecryptOptions(options: DecryptFileOptions): {
  readonly signedBytesMax: number
} {
  checkCommon(options)
  const { signedBytesMax = SIGNED_BYTES_HELD_DEFAULT } = options
  if (!Number.isSafeInteger(signedBytesMax) || signedBytesMax < 0) {
    throw new KeyfoldError('CONFIG_INVALID', 'signedBytesMax: a whole number is needed')
  }
  return { signedBytesMax }
}

export function encryptedDataKeysMaxOf({ encryptedDataKeysMax }: CommonOptions): number {
  return encryptedDataKeysMax ?? ENCRYPTED_DATA_KEYS_DEFAULT
}

/** Throws COMMITMENT_REQUIRED. */
export function checkPolicy({ commitmentPolicy }: CommonOptions, suite: AlgorithmSuite): void {
  const { commits, id } = suite
  if (commits || commitmentPolicy?.endsWith('_ALLOW_DECRYPT') === true) return
  throw new KeyfoldError('COMMITMENT_REQUIRED', `suite ${id.toString(16).padStart(4, '0')}`)
}

function checkCommon({ commitmentPolicy, encryptedDataKeysMax }: CommonOptions): void {
  if (commitmentPolicy !== undefined && !COMMITMENT_POLICIES.includes(commitmentPolicy)) {
    const names = COMMITMENT_POLICIES.join(', ')
    throw new KeyfoldError('CONFIG_INVALID', `commitmentPolicy: one of ${names}`)
  }
  const count = encryptedDataKeysMax ?? 1
  if (!Number.isInteger(count) || count < 1 || count > 0xffff) {
    throw new KeyfoldError('CONFIG_INVALID', 'encryptedDataKeysMax: 1 to 65535 are allowed')
  }
}
