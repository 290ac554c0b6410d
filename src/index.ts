/** The public library. Re-exports only. */
export { Keyfold } from './client/keyfold.ts'
export type {
  CallOptions,
  DataKey,
  DecryptedBatch,
  DetachedBatch,
  EncryptedBatch,
  EncryptOptions,
  KeyfoldOptions,
  PackedBatch,
  ReEncryptedBatch,
  ReEncryptOptions,
  ServerDecryptStreamOptions,
  ServerEncryptStreamOptions,
  StreamOptions,
} from './client/keyfold.ts'
export type { EncryptionContext } from './client/wire.ts'
export { KeyfoldError, type ErrorCode, type MessageErrorCode } from './errors.ts'
export {
  attachKeyEntry,
  detachMessage,
  unpackToDetached,
  unpackToInline,
} from './format/convert.ts'
export type { EncryptedDataKey } from './format/encryption-sdk.ts'
export { decryptFile } from './streams/decrypt-file.ts'
export { decryptFileTo, encryptFileTo } from './streams/file-to-file.ts'
export {
  MultiKeyring,
  type GeneratedDataKey,
  type Keyring,
  type KeyringRequest,
} from './streams/keyring.ts'
export { awsKmsClient, type AwsKms } from './streams/keyrings/aws-kms-client.ts'
export { keyfoldKmsClient } from './streams/keyrings/keyfold-kms-client.ts'
export {
  KmsKeyring,
  type KmsClient,
  type KmsKeyringOptions,
} from './streams/keyrings/kms-keyring.ts'
export { RawAesKeyring, type RawAesKeyringOptions } from './streams/keyrings/raw-aes-keyring.ts'
export { RawRsaKeyring, type RawRsaKeyringOptions } from './streams/keyrings/raw-rsa-keyring.ts'
export type {
  CommitmentPolicy,
  DecryptFileOptions,
  EncryptFileOptions,
  FileHeader,
} from './streams/options.ts'
export type { PositionalFile } from './streams/positional.ts'
export { openSealedFile, SealedFile } from './streams/sealed-file.ts'
export { decryptBuffer, decryptStream, encryptBuffer, encryptStream } from './streams/streams.ts'
export { decryptWebStream, encryptWebStream, type WebTransform } from './streams/web-streams.ts'
export { openKeyfold } from './in-process/open.ts'
export type {
  InProcessCallOptions,
  InProcessCounters,
  InProcessEncryptOptions,
  InProcessKeyfold,
} from './in-process/keyfold.ts'
export type { LocalOptions, OpenOptions, ServerBackedOptions } from './in-process/settings.ts'
export type { WritableFile } from './streams/write-behind.ts'
