/**
 * Custom key stores (AWS KMS API reference): a CloudHSM key store is one of a PKCS#11 module that this node is configured
 * with, an external key store one behind an XKS proxy. Other kinds, which AWS has no names for, are created elsewhere and
 * shown as external key stores without a proxy.
 */
import { KeyfoldError } from '../../errors.ts'
import type { KeyStoreSettings } from '../../format/key-store-settings.ts'
import { KINDS } from '../../kms/key-store-kinds.ts'
import type { KeyStoreRecord } from '../../kms/key-store-record.ts'
import type { KmsKey } from '../../kms/kms-key.ts'
import { LIST_PAGE_MAX } from '../../limits.ts'
import type { Call } from './call.ts'
import { customKeyStoreId, paging } from './members.ts'
import { free, seconds, type Operation, type Output } from './operation.ts'
import { oneOf, optional, required, structure, text, unsupported, type Input } from './shapes.ts'

const name = text({ min: 1, max: 256 })
const ID = { CustomKeyStoreId: required(customKeyStoreId) } as const

/** Without a pattern a refusal does not repeat the secret; its characters are looked at where it is sealed. */
const credential = structure({
  AccessKeyId: required(text({ min: 20, max: 30, pattern: /^[A-Z2-7]+$/ })),
  RawSecretAccessKey: required(text({ min: 43, max: 64 })),
})

/** What both CreateCustomKeyStore and UpdateCustomKeyStore take. */
const CONNECTION = {
  CloudHsmClusterId: optional(text({ min: 1, max: 64 })),
  KeyStorePassword: optional(text({ min: 7, max: 32 })),
  // AWS's takes no port.
  XksProxyUriEndpoint: optional(
    text({ min: 10, max: 128, pattern: /^https:\/\/[a-zA-Z0-9.-]+(:\d{1,5})?$/ }),
  ),
  XksProxyUriPath: optional(
    text({ min: 10, max: 128, pattern: /^(\/[a-zA-Z0-9/_-]+)?\/kms\/xks\/v\d{1,2}$/ }),
  ),
  XksProxyAuthenticationCredential: optional(credential),
  XksProxyConnectivity: optional(oneOf('PUBLIC_ENDPOINT', 'VPC_ENDPOINT_SERVICE')),
  XksProxyVpcEndpointServiceName: unsupported('there is no VPC here'),
  XksProxyVpcEndpointServiceOwner: unsupported('there is no VPC here'),
} as const

type Connection = Input<typeof CONNECTION>

const CLOUDHSM_MEMBERS = [
  'CloudHsmClusterId',
  'KeyStorePassword',
  'TrustAnchorCertificate',
] as const
const XKS_MEMBERS = [
  'XksProxyUriEndpoint',
  'XksProxyUriPath',
  'XksProxyAuthenticationCredential',
  'XksProxyConnectivity',
] as const

export const KEY_STORE_OPERATIONS: readonly Operation[] = [
  free(
    'CreateCustomKeyStore',
    {
      CustomKeyStoreName: required(name),
      CustomKeyStoreType: optional(oneOf('AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE')),
      TrustAnchorCertificate: optional(text({ min: 1, max: 5_000 })),
      ...CONNECTION,
    },
    async (call, input) => {
      call.authorizeService('kms:CreateCustomKeyStore')
      const { CustomKeyStoreType: type = 'AWS_CLOUDHSM', TrustAnchorCertificate: anchor } = input
      const isExternal = type === 'EXTERNAL_KEY_STORE'
      refuse(input, isExternal ? CLOUDHSM_MEMBERS : XKS_MEMBERS, type)
      demand(input, isExternal ? XKS_MEMBERS : ['CloudHsmClusterId'], type)
      checkConnectivity(input)
      const { settings, secret } = connectionOf(input)
      const created = await call.engine.kms.keyStores.create({
        name: input.CustomKeyStoreName,
        kind: isExternal ? 'xks' : 'pkcs11',
        settings: anchor === undefined ? settings : { ...settings, trustAnchorCertificate: anchor },
        secret,
      })
      return { CustomKeyStoreId: created.id }
    },
  ),
  free(
    'DescribeCustomKeyStores',
    {
      CustomKeyStoreId: optional(customKeyStoreId),
      CustomKeyStoreName: optional(name),
      ...paging(LIST_PAGE_MAX),
    },
    async (call, input) => {
      call.authorizeService('kms:DescribeCustomKeyStores')
      const { Limit: limit = LIST_PAGE_MAX, Marker: marker } = input
      const found = described(call, input)
      if (marker !== undefined && !found.some(({ id }) => id === marker)) {
        throw new KeyfoldError('MARKER_INVALID')
      }
      const rest = found.filter(({ id }) => marker === undefined || id > marker)
      const shown = rest.slice(0, limit)
      const truncated = rest.length > shown.length
      return {
        CustomKeyStores: shown.map(entryOf),
        Truncated: truncated,
        NextMarker: truncated ? shown.at(-1)?.id : undefined,
      }
    },
  ),
  free('ConnectCustomKeyStore', { ...ID }, async (call, input) => {
    call.authorizeService('kms:ConnectCustomKeyStore')
    const { id } = keyStoreById(call, input.CustomKeyStoreId)
    await call.engine.kms.keyStores.connect(id)
    return {}
  }),
  free('DisconnectCustomKeyStore', { ...ID }, async (call, input) => {
    call.authorizeService('kms:DisconnectCustomKeyStore')
    const { id } = keyStoreById(call, input.CustomKeyStoreId)
    await call.engine.kms.keyStores.disconnect(id)
    return {}
  }),
  free(
    'UpdateCustomKeyStore',
    { ...ID, NewCustomKeyStoreName: optional(name), ...CONNECTION },
    async (call, input) => {
      call.authorizeService('kms:UpdateCustomKeyStore')
      const { id, kind } = keyStoreById(call, input.CustomKeyStoreId)
      if (kind !== 'pkcs11') refuse(input, CLOUDHSM_MEMBERS, 'EXTERNAL_KEY_STORE')
      if (kind !== 'xks') refuse(input, XKS_MEMBERS, KINDS[kind].type)
      checkConnectivity(input)
      const { settings, secret } = connectionOf(input)
      await call.engine.kms.keyStores.update(id, {
        name: input.NewCustomKeyStoreName,
        settings: Object.keys(settings).length === 0 ? undefined : settings,
        secret,
      })
      return {}
    },
  ),
  free('DeleteCustomKeyStore', { ...ID }, async (call, input) => {
    call.authorizeService('kms:DeleteCustomKeyStore')
    const { id } = keyStoreById(call, input.CustomKeyStoreId)
    await call.engine.kms.keyStores.delete(id)
    return {}
  }),
]

/** AWS's operations take ids, not names. Throws KEY_STORE_NOT_FOUND. */
export function keyStoreById(call: Call, id: string): KeyStoreRecord {
  const found = findById(call, id)
  if (found === undefined) throw new KeyfoldError('KEY_STORE_NOT_FOUND')
  return found
}

/** Members of KeyMetadata that keys of a custom key store have. */
export function keyStoreMembersOf(call: Call, { keyStore, externalKeyId }: KmsKey): Output {
  const found = findById(call, keyStore)
  if (found === undefined) return {}
  return {
    CustomKeyStoreId: keyStore,
    CloudHsmClusterId: found.settings['module'],
    XksKeyConfiguration: externalKeyId === undefined ? undefined : { Id: externalKeyId },
  }
}

/** The local key store is none of them. */
function findById(call: Call, id: string): KeyStoreRecord | undefined {
  return call.engine.kms.keyStores.list().find((record) => record.id === id)
}

function described(
  call: Call,
  {
    CustomKeyStoreId: id,
    CustomKeyStoreName: wanted,
  }: {
    readonly CustomKeyStoreId: string | undefined
    readonly CustomKeyStoreName: string | undefined
  },
): readonly KeyStoreRecord[] {
  const all = call.engine.kms.keyStores.list()
  if (id === undefined && wanted === undefined) return all
  if (id !== undefined && wanted !== undefined) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      'CustomKeyStoreId and CustomKeyStoreName: one of them, but not both',
    )
  }
  const found = all.filter((record) => record.id === id || record.name === wanted)
  if (found.length === 0) throw new KeyfoldError('KEY_STORE_NOT_FOUND')
  return found
}

/** CustomKeyStoresListEntry of the API reference. */
function entryOf(record: KeyStoreRecord): Output {
  const { settings, kind } = record
  return {
    CustomKeyStoreId: record.id,
    CustomKeyStoreName: record.name,
    CloudHsmClusterId: settings['module'],
    TrustAnchorCertificate: settings['trustAnchorCertificate'],
    ConnectionState: record.connectionState,
    ConnectionErrorCode: record.connectionErrorCode,
    CreationDate: seconds(record.createdAtMs),
    CustomKeyStoreType: KINDS[kind].type,
    XksProxyConfiguration:
      kind === 'xks'
        ? {
            Connectivity: 'PUBLIC_ENDPOINT',
            AccessKeyId: settings['accessKeyId'],
            UriEndpoint: settings['uriEndpoint'],
            UriPath: settings['uriPath'],
          }
        : undefined,
  }
}

function connectionOf(input: Connection): {
  readonly settings: KeyStoreSettings
  readonly secret: Uint8Array | undefined
} {
  const { XksProxyAuthenticationCredential: given, KeyStorePassword: password } = input
  const settings = Object.entries({
    module: input.CloudHsmClusterId,
    uriEndpoint: input.XksProxyUriEndpoint,
    uriPath: input.XksProxyUriPath,
    accessKeyId: given?.AccessKeyId,
  }).flatMap(([setting, value]) => (value === undefined ? [] : [[setting, value] as const]))
  const secret = given?.RawSecretAccessKey ?? password
  return {
    settings: Object.fromEntries(settings),
    secret: secret === undefined ? undefined : Buffer.from(secret),
  }
}

/** AWS KMS would reach into the network of whoever asks. */
function checkConnectivity({ XksProxyConnectivity: connectivity }: Connection): void {
  if (connectivity !== 'VPC_ENDPOINT_SERVICE') return
  throw new KeyfoldError(
    'OPERATION_UNSUPPORTED',
    'XksProxyConnectivity: there is no VPC here; PUBLIC_ENDPOINT is any address that this server reaches',
  )
}

type Given = Readonly<Record<string, unknown>>

function refuse(given: Given, members: readonly string[], type: string): void {
  const foreign = members.find((member) => given[member] !== undefined)
  if (foreign === undefined) return
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    `${foreign} is not valid for a custom key store of type ${type}`,
  )
}

function demand(given: Given, members: readonly string[], type: string): void {
  const missing = members.find((member) => given[member] === undefined)
  if (missing === undefined) return
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    `${missing} is required for a custom key store of type ${type}`,
  )
}
