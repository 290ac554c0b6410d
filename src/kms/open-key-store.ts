/**
 * From what the catalog says of a key store to how it is opened. What names files, libraries and commands of this machine
 * comes from this node's configuration, never from a caller.
 */
import type { Pkcs11Module } from '../config/pkcs11-modules.ts'
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { openKeyStore, type KeyStoreSettings } from '../key-stores/open.ts'
import type { KeyStoreAddress, OpenKeyStore } from './key-store-opener.ts'
import { keyArn, keyIdsOfBytes, type Location } from './reference.ts'

export interface OpenKeyStoreOptions {
  readonly crypto: Crypto
  readonly location: Location
  readonly pkcs11Modules: Readonly<Record<string, Pkcs11Module>>
}

type SettingsOf = (address: KeyStoreAddress, options: OpenKeyStoreOptions) => KeyStoreSettings

export function keyStoreOpener(options: OpenKeyStoreOptions): OpenKeyStore {
  return async (address) =>
    openKeyStore(address.id, SETTINGS[address.kind](address, options), options.crypto)
}

const SETTINGS: Readonly<Record<KeyStoreAddress['kind'], SettingsOf>> = {
  pkcs11: ({ settings, openSecret }, { pkcs11Modules }) => {
    const { module: name = '' } = settings
    const module = Object.hasOwn(pkcs11Modules, name) ? pkcs11Modules[name] : undefined
    if (module === undefined) throw new KeyfoldError('HSM_NOT_FOUND')
    const { library, pin, ...configured } = module
    const source =
      openSecret === undefined ? pin : ({ source: 'sealed', open: openSecret } as const)
    if (source === undefined) {
      throw new KeyfoldError('CONFIG_INVALID', `pkcs11Modules: ${name} needs a pin`)
    }
    return { kind: 'pkcs11', ...configured, module: library, pin: source }
  },
  xks: ({ settings, openSecret }, { location }) => ({
    kind: 'xks',
    endpoint: required(settings, 'uriEndpoint'),
    uriPath: required(settings, 'uriPath'),
    region: location.region,
    accessKeyId: required(settings, 'accessKeyId'),
    secretAccessKey: secretOf(openSecret),
    ca: settings['certificateAuthority'],
    deadlineMs: deadlineOf(settings),
    principalArn: `arn:aws:iam::${location.account}:root`,
    keyArnOf: (kmsKeyId) => keyArn(keyIdsOfBytes(kmsKeyId)[0], location),
  }),
  'aws-kms': ({ settings, openSecret }) => ({
    kind: 'aws-kms',
    region: required(settings, 'region'),
    endpoint: settings['endpoint'],
    ca: settings['certificateAuthority'],
    timeoutMs: deadlineOf(settings),
    credentials: {
      accessKeyId: required(settings, 'accessKeyId'),
      openSecret: () => secretOf(openSecret),
    },
    createsKeys: settings['createsKeys'] !== 'false',
  }),
  transit: ({ settings, openSecret }) => ({
    kind: 'transit',
    endpoint: required(settings, 'url'),
    mount: settings['mount'] ?? 'transit',
    namespace: settings['namespace'],
    ca: settings['certificateAuthority'],
    timeoutMs: deadlineOf(settings),
    openToken: () => secretOf(openSecret),
    createsKeys: settings['createsKeys'] !== 'false',
  }),
}

/** checkSettings saw to it that it is there. */
function required(settings: KeyStoreAddress['settings'], name: string): string {
  const value = settings[name]
  if (value === undefined) throw new KeyfoldError('INTERNAL', `a key store has no ${name}`)
  return value
}

/** As its guard's: where it says nothing each kind has its own. */
function deadlineOf({ deadlineMs }: KeyStoreAddress['settings']): number | undefined {
  return deadlineMs === undefined ? undefined : Number(deadlineMs)
}

function secretOf(openSecret: KeyStoreAddress['openSecret']): Uint8Array {
  if (openSecret === undefined) throw new KeyfoldError('INTERNAL', 'a key store has no secret')
  return openSecret()
}
