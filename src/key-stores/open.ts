/** The kinds of key store there are besides the local one: the one place that knows them all. */
import type { Crypto } from '../crypto/crypto.ts'
import { awsKmsSettings, openAwsKmsKeyStore, type AwsKmsSettings } from './aws-kms.ts'
import type { KeyStore } from './key-store.ts'
import type { StoreSettings } from './store-settings.ts'

export type KeyStoreSettings = { readonly kind: 'aws-kms' } & AwsKmsSettings

/** Throws CONFIG_INVALID, and KEY_STORE_UNREACHABLE where a store has to be asked to be opened. */
export async function openKeyStore(
  name: string,
  settings: KeyStoreSettings,
  crypto: Crypto,
): Promise<KeyStore> {
  switch (settings.kind) {
    case 'aws-kms':
      return openAwsKmsKeyStore(name, settings, crypto)
  }
}

/** What a file says of a store, its kind first. Throws CONFIG_INVALID. */
export function parseKeyStoreSettings(members: StoreSettings): KeyStoreSettings {
  const kind = members.text('kind')
  switch (kind) {
    case 'aws-kms':
      return { kind, ...awsKmsSettings(members) }
    default:
      throw members.wrong('kind', 'aws-kms is needed')
  }
}
