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
