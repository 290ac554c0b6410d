/** What stands before a store part: made, and held against the store that is to open it, in this one place. */
import { KeyfoldError } from '../errors.ts'
import type { WrappedKeyHeader } from '../format/wrapped-key.ts'
import type { KeyMaterial, KeyStore } from './key-store.ts'

/** The header of what `store` is about to wrap under `material`. */
export function wrappedKeyHeader(
  store: Pick<KeyStore, 'traits'>,
  material: Pick<KeyMaterial, 'kmsKeyId' | 'version'>,
  usage: WrappedKeyHeader['usage'],
): WrappedKeyHeader {
  return {
    suite: store.traits.wrappingSuite,
    usage,
    kmsKeyId: material.kmsKeyId,
    materialVersion: material.version,
  }
}

/** Throws DECRYPT_FAILED: the blob names a key of this store and was wrapped by another kind of store. */
export function assertWrappedBy(
  store: Pick<KeyStore, 'traits'>,
  { suite }: Pick<WrappedKeyHeader, 'suite'>,
): void {
  if (suite !== store.traits.wrappingSuite) throw new KeyfoldError('DECRYPT_FAILED')
}
