/**
 * From what the catalog says of a key store to the key store: one function for each kind. What names files, libraries
 * and commands of this machine comes from this node's configuration, never from a caller.
 */
import type { Pkcs11Module } from '../config.ts'
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { openAwsKmsKeyStore } from '../key-stores/aws-kms.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import { openPkcs11KeyStore } from '../key-stores/pkcs11.ts'
import { openXksKeyStore } from '../key-stores/xks.ts'
import type { KeyStoreAddress, OpenKeyStore } from './key-store-opener.ts'
import { keyArn, keyIdsOfBytes, type Location } from './reference.ts'

export interface OpenKeyStoreOptions {
  readonly crypto: Crypto
  readonly location: Location
  readonly pkcs11Modules: Readonly<Record<string, Pkcs11Module>>
}

type OpenKind = (address: KeyStoreAddress, options: OpenKeyStoreOptions) => Promise<KeyStore>

export function keyStoreOpener(options: OpenKeyStoreOptions): OpenKeyStore {
  return async (address) => OPENERS[address.kind](address, options)
}

const OPENERS: Readonly<Record<KeyStoreAddress['kind'], OpenKind>> = {
  pkcs11: ({ id, settings, openSecret }, { crypto, pkcs11Modules }) => {
    const { module: name = '' } = settings
    const module = Object.hasOwn(pkcs11Modules, name) ? pkcs11Modules[name] : undefined
    if (module === undefined) throw new KeyfoldError('HSM_NOT_FOUND')
    const { library, pin, ...configured } = module
    const source =
      openSecret === undefined ? pin : ({ source: 'sealed', open: openSecret } as const)
    if (source === undefined) {
      throw new KeyfoldError('CONFIG_INVALID', `pkcs11Modules: ${name} needs a pin`)
    }
    return openPkcs11KeyStore(crypto, {
      ...configured,
      name: id,
      module: library,
      pin: source,
    })
  },
  xks: async ({ id, settings, openSecret }, { crypto, location }) =>
    openXksKeyStore(crypto, {
      name: id,
      endpoint: required(settings, 'uriEndpoint'),
      uriPath: required(settings, 'uriPath'),
      region: location.region,
      accessKeyId: required(settings, 'accessKeyId'),
      secretAccessKey: secretOf(openSecret),
      ca: settings['certificateAuthority'],
      principalArn: `arn:aws:iam::${location.account}:root`,
      keyArnOf: (kmsKeyId) => keyArn(keyIdsOfBytes(kmsKeyId)[0], location),
    }),
  'aws-kms': ({ id, settings, openSecret }, { crypto }) =>
    openAwsKmsKeyStore(
      id,
      {
        region: required(settings, 'region'),
        endpoint: settings['endpoint'],
        credentials: {
          accessKeyId: required(settings, 'accessKeyId'),
          openSecret: () => secretOf(openSecret),
        },
        createsKeys: settings['createsKeys'] !== 'false',
      },
      crypto,
    ),
  transit: async () => {
    throw new KeyfoldError('OPERATION_UNSUPPORTED', 'key stores of transit are not built in')
  },
}

/** checkSettings saw to it that it is there. */
function required(settings: KeyStoreAddress['settings'], name: string): string {
  const value = settings[name]
  if (value === undefined) throw new KeyfoldError('INTERNAL', `a key store has no ${name}`)
  return value
}

function secretOf(openSecret: KeyStoreAddress['openSecret']): Uint8Array {
  if (openSecret === undefined) throw new KeyfoldError('INTERNAL', 'a key store has no secret')
  return openSecret()
}
