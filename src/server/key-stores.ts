/**
 * Key stores at /v1: of all kinds, also those that AWS's API has no names for. A key store is named by its id or its
 * name. What connects or disconnects is answered when that is over.
 */
import { malformed, type PlainValue } from '../format/msgpack.ts'
import { isKeyStoreKind, KEY_STORE_SETTINGS } from '../format/key-store-settings.ts'
import type { KeyStoreRecord } from '../kms/key-store-record.ts'
import { pageLimit, pageOf } from '../kms/parts.ts'
import {
  authorizeService,
  optionalBoolean,
  optionalText,
  optionalTexts,
  pageRequest,
  text,
  type ManagementHandler,
  type ManagementRequest,
} from './management.ts'

export const listKeyStores: ManagementHandler = async (request) => {
  authorizeService(request, 'kms:DescribeCustomKeyStores')
  const { limit: wanted, marker = '' } = pageRequest(request.query)
  const limit = pageLimit(wanted)
  const all = request.engine.kms.keyStores.list()
  const rest = all.filter(({ id }) => id > marker).slice(0, limit + 1)
  const { items, nextMarker } = pageOf(rest, limit, ({ id }) => id)
  return { keyStores: items.map(describe), nextMarker }
}

export const describeKeyStore: ManagementHandler = async (request) => {
  authorizeService(request, 'kms:DescribeCustomKeyStores')
  return describe(request.engine.kms.keyStores.find(request.name))
}

export const createKeyStore: ManagementHandler = async (request) => {
  authorizeService(request, 'kms:CreateCustomKeyStore')
  const { engine, fields } = request
  const kind = text(fields, 'kind')
  if (!isKeyStoreKind(kind))
    throw malformed('kind', `one of ${Object.keys(KEY_STORE_SETTINGS).join(', ')}`)
  const created = await engine.kms.keyStores.create({
    name: text(fields, 'name'),
    kind,
    settings: settingsOf(request) ?? {},
    secret: secretOf(request),
    keepsOpenKeys: optionalBoolean(fields, 'keepsOpenKeys'),
  })
  return describe(created)
}

export const updateKeyStore: ManagementHandler = async (request) => {
  authorizeService(request, 'kms:UpdateCustomKeyStore')
  const { engine, fields, name } = request
  const updated = await engine.kms.keyStores.update(name, {
    name: optionalText(fields, 'name'),
    settings: settingsOf(request),
    secret: secretOf(request),
    keepsOpenKeys: optionalBoolean(fields, 'keepsOpenKeys'),
  })
  return describe(updated)
}

export const connectKeyStore: ManagementHandler = async (request) => {
  authorizeService(request, 'kms:ConnectCustomKeyStore')
  const { keyStores } = request.engine.kms
  const { id } = await keyStores.connect(request.name)
  return describe(await keyStores.settled(id))
}

export const disconnectKeyStore: ManagementHandler = async (request) => {
  authorizeService(request, 'kms:DisconnectCustomKeyStore')
  const { keyStores } = request.engine.kms
  const { id } = await keyStores.disconnect(request.name)
  return describe(await keyStores.settled(id))
}

export const deleteKeyStore: ManagementHandler = async (request) => {
  authorizeService(request, 'kms:DeleteCustomKeyStore')
  await request.engine.kms.keyStores.delete(request.name)
  return {}
}

function describe(record: KeyStoreRecord): PlainValue {
  return { ...record, settings: { ...record.settings } }
}

function settingsOf({ fields }: ManagementRequest): Readonly<Record<string, string>> | undefined {
  const settings = optionalTexts(fields, 'settings')
  return settings === undefined ? undefined : Object.fromEntries(settings)
}

function secretOf({ fields }: ManagementRequest): Uint8Array | undefined {
  const secret = optionalText(fields, 'secret')
  return secret === undefined ? undefined : Buffer.from(secret)
}
