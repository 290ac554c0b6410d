/** The kinds of key store there are besides the local one: the one place that knows them all. */
import type { Crypto } from '../crypto/crypto.ts'
import { KEY_STORE_CALL_MS_MAX } from '../limits.ts'
import { awsKmsSettings, type AwsKmsSettings } from './aws-kms-client.ts'
import { openAwsKmsKeyStore } from './aws-kms.ts'
import type { KeyStore } from './key-store.ts'
import { openPkcs11KeyStore, type Pkcs11Settings } from './pkcs11.ts'
import { readAuthorities } from './remote.ts'
import { readSecretLine } from './secret-files.ts'
import type { StoreSettings } from './store-settings.ts'
import { TransitKeyStore, transitSettings, type TransitSettings } from './transit.ts'
import { openXksKeyStore, type XksSettings } from './xks.ts'

export type KeyStoreSettings =
  | ({ readonly kind: 'pkcs11' } & Omit<Pkcs11Settings, 'name'>)
  | ({ readonly kind: 'xks' } & Omit<XksSettings, 'name'>)
  | ({ readonly kind: 'aws-kms' } & AwsKmsSettings)
  | ({ readonly kind: 'transit' } & TransitSettings)

/** Throws CONFIG_INVALID, and KEY_STORE_UNREACHABLE where a store has to be asked to be opened. */
export async function openKeyStore(
  name: string,
  settings: KeyStoreSettings,
  crypto: Crypto,
): Promise<KeyStore> {
  switch (settings.kind) {
    case 'pkcs11':
      return openPkcs11KeyStore(crypto, { ...settings, name })
    case 'xks':
      return openXksKeyStore(crypto, { ...settings, name })
    case 'aws-kms':
      return openAwsKmsKeyStore(name, settings, crypto)
    case 'transit':
      return new TransitKeyStore(name, settings, crypto)
  }
}

/** What a file says of a store, its kind first. Throws CONFIG_INVALID. */
export function parseKeyStoreSettings(members: StoreSettings): KeyStoreSettings {
  const kind = members.text('kind')
  switch (kind) {
    case 'pkcs11':
      return { kind, ...pkcs11Settings(members) }
    case 'xks':
      return { kind, ...xksSettings(members) }
    case 'aws-kms':
      return { kind, ...awsKmsSettings(members) }
    case 'transit':
      return { kind, ...transitSettings(members) }
    default:
      throw members.wrong('kind', 'pkcs11, xks, aws-kms or transit is needed')
  }
}

/** `module` and `tokenLabel`; `pinFile` or `pinCommand`. What else a token may need has its defaults. */
function pkcs11Settings(members: StoreSettings): Omit<Pkcs11Settings, 'name'> {
  const file = members.optionalText('pinFile')
  const command = members.optionalText('pinCommand')
  if ((file === undefined) === (command === undefined)) {
    throw members.wrong('pinFile', 'one of pinFile and pinCommand is needed')
  }
  return {
    module: members.text('module'),
    token: { label: members.text('tokenLabel') },
    pin:
      command === undefined ? { source: 'file', file: file ?? '' } : { source: 'command', command },
  }
}

function xksSettings(members: StoreSettings): Omit<XksSettings, 'name'> {
  const region = members.text('region')
  const account = '000000000000'
  return {
    endpoint: members.text('endpoint'),
    uriPath: members.text('uriPath'),
    region,
    accessKeyId: members.text('accessKeyId'),
    secretAccessKey: readSecretLine(members.text('secretAccessKeyFile')),
    ca: readAuthorities(members.optionalText('caFile')),
    deadlineMs: members.optionalWhole('timeoutMs', 1, KEY_STORE_CALL_MS_MAX),
    // The key that it protects is no KMS key: it has a name of that form for the proxy's log.
    principalArn: `arn:aws:iam::${account}:root`,
    keyArnOf: (id) => `arn:aws:kms:${region}:${account}:key/${Buffer.from(id).toString('hex')}`,
  }
}
