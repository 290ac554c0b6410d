/**
 * Management: KMS keys, aliases, tokens and access keys. Small maps in, small maps out; the fields that each handler takes
 * stand in the table of routes, and others are refused there.
 */
import type { Engine } from '../engine.ts'
import { KeyfoldError } from '../errors.ts'
import { malformed, type PlainValue, type Value } from '../format/msgpack.ts'
import * as limits from '../limits.ts'
import type { AccessKeyRecord } from '../kms/access-keys.ts'
import type { Action, KmsKey, Principal, RequestAttributes, RequestOrigin } from '../kms/kms-key.ts'
import { metadataOf } from '../kms/kms.ts'
import type { Page } from '../kms/parts.ts'
import { aliasNameOf } from '../kms/reference.ts'
import type { TokenRecord } from '../kms/tokens.ts'
import type { RequestRecord } from './records.ts'

export interface ManagementRequest {
  readonly engine: Engine
  readonly principal: Principal
  readonly origin: RequestOrigin
  /** What stands for `:name` in the path, decoded. */
  readonly name: string
  readonly query: URLSearchParams
  readonly fields: ReadonlyMap<string, Value>
  /** Undefined where there is no audit log. */
  readonly record: RequestRecord | undefined
}

export type ManagementHandler = (request: ManagementRequest) => Promise<PlainValue>

export const createKey: ManagementHandler = async (request) => {
  const { engine, fields } = request
  const tags = optionalTexts(fields, 'tags')
  const keyStore = optionalText(fields, 'keyStore')
  const origin = keyStore === undefined ? undefined : engine.kms.keyStores.originOf(keyStore)
  const parameters = { ...NEW_KEY, 'kms:KeyOrigin': origin ?? 'AWS_KMS' }
  authorizeService(request, 'kms:CreateKey', { tags, parameters })
  const alias = optionalText(fields, 'alias')
  if (tags !== undefined) authorizeService(request, 'kms:TagResource', { tags })
  if (alias !== undefined) authorizeAlias(request, 'kms:CreateAlias', alias)
  const created = await engine.kms.createKey({
    description: optionalText(fields, 'description'),
    alias,
    tags,
    keyStore,
    externalKeyId: optionalText(fields, 'externalKeyId'),
  })
  request.record?.about(created.arn)
  return describe(created)
}

/** What every key is that is created here, as conditions on kms:CreateKey read it. */
const NEW_KEY: RequestAttributes['parameters'] & object = {
  'kms:BypassPolicyLockoutSafetyCheck': false,
  'kms:KeySpec': 'SYMMETRIC_DEFAULT',
  'kms:KeyUsage': 'ENCRYPT_DECRYPT',
  'kms:MultiRegion': false,
}

export const listKeys: ManagementHandler = async (request) => {
  authorizeService(request, 'kms:ListKeys')
  return page('keys', await request.engine.kms.listKeys(pageRequest(request.query)))
}

// Operations go on with the id that was authorised: an alias may have moved meanwhile.

export const describeKey: ManagementHandler = async (request) => {
  const { arn } = await authorizeKey(request, 'kms:DescribeKey', request.name)
  return describe(await request.engine.kms.describeKey(arn))
}

export const enableKey: ManagementHandler = async (request) => {
  const { arn } = await authorizeKey(request, 'kms:EnableKey', request.name)
  return describe(await request.engine.kms.enableKey(arn))
}

export const disableKey: ManagementHandler = async (request) => {
  const { arn } = await authorizeKey(request, 'kms:DisableKey', request.name)
  return describe(await request.engine.kms.disableKey(arn))
}

export const rotateKey: ManagementHandler = async (request) => {
  const { arn } = await authorizeKey(request, 'kms:RotateKeyOnDemand', request.name)
  return describe(await request.engine.kms.rotations.rotateOnDemand(arn))
}

export const listAliases: ManagementHandler = async (request) => {
  const { engine, query } = request
  authorizeService(request, 'kms:ListAliases')
  const key = query.get('key') ?? undefined
  if (key !== undefined) await authorizeKey(request, 'kms:ListAliases', key)
  const { items, nextMarker } = await engine.kms.aliases.list({ ...pageRequest(query), key })
  return page('aliases', {
    items: items.map(({ name, keyId, arn }) => ({ name, keyId, arn })),
    nextMarker,
  })
}

export const createAlias: ManagementHandler = async (request) => {
  const key = text(request.fields, 'key')
  const alias = text(request.fields, 'alias')
  authorizeAlias(request, 'kms:CreateAlias', alias)
  await authorizeKey(request, 'kms:CreateAlias', key)
  await request.engine.kms.aliases.create(alias, key)
  return {}
}

/** The alias and both keys are asked for: whoever moves an alias takes it from one and gives it to the other. */
export const updateAlias: ManagementHandler = async (request) => {
  const key = text(request.fields, 'key')
  authorizeAlias(request, 'kms:UpdateAlias', request.name)
  await authorizeKey(request, 'kms:UpdateAlias', request.name)
  await authorizeKey(request, 'kms:UpdateAlias', key)
  await request.engine.kms.aliases.update(request.name, key)
  return {}
}

export const deleteAlias: ManagementHandler = async (request) => {
  authorizeAlias(request, 'kms:DeleteAlias', request.name)
  await authorizeKey(request, 'kms:DeleteAlias', request.name)
  await request.engine.kms.aliases.delete(request.name)
  return {}
}

export const listTokens: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageTokens')
  return { tokens: request.engine.tokens.list().map(describeToken) }
}

export const createToken: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageTokens')
  const { engine, fields } = request
  const { token, record } = await engine.tokens.create({
    name: text(fields, 'name'),
    principalArn: optionalText(fields, 'principal'),
    actions: textList(fields, 'actions'),
    keys: textList(fields, 'keys'),
    expiresAtMs: optionalExpiry(fields),
  })
  return { tokenId: record.tokenId, token }
}

export const revokeToken: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageTokens')
  await request.engine.tokens.revoke(request.name)
  return {}
}

export const listAccessKeys: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageAccessKeys')
  return { accessKeys: request.engine.accessKeys.list().map(describeAccessKey) }
}

export const createAccessKey: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageAccessKeys')
  const { engine, fields } = request
  const { secretAccessKey, sessionToken, record } = await engine.accessKeys.create({
    principalArn: text(fields, 'principal'),
    temporary: optionalBoolean(fields, 'temporary'),
    xksPrefix: optionalText(fields, 'xksPrefix'),
    expiresAtMs: optionalExpiry(fields),
  })
  const { accessKeyId, xksPrefix } = record
  return { accessKeyId, secretAccessKey, sessionToken, xksPrefix }
}

export const revokeAccessKey: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageAccessKeys')
  await request.engine.accessKeys.revoke(request.name)
  return {}
}

export const lock: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:Lock')
  request.engine.lock()
  return { locked: true }
}

export const describeLimits: ManagementHandler = async ({ engine }) => {
  const { config, crypto } = engine
  return {
    implementation: crypto.implementation,
    region: config.region,
    account: config.account,
    requestBytesMax: config.requestBytesMax,
    batchMessagesMax: limits.BATCH_MESSAGES_MAX,
    messageBytesMax: limits.MESSAGE_BYTES_MAX,
    keyEntriesMax: limits.KEY_ENTRIES_MAX,
    operationsMax: limits.OPERATIONS_MAX,
    contextBytesMax: limits.CONTEXT_BYTES_MAX,
    dataKeysPerRequestMax: limits.DATA_KEYS_PER_REQUEST_MAX,
    messageKeysPerRequestMax: limits.MESSAGE_KEYS_PER_REQUEST_MAX,
    streamsMax: limits.SERVED_STREAMS_MAX,
    streamBytesMax: limits.STREAM_BYTES_MAX,
    streamFrameBytesMin: limits.FRAME_BYTES_MIN,
    streamFrameBytesMax: limits.FRAME_BYTES_MAX,
    streamSignedBytesMax: limits.SERVED_SIGNED_BYTES_MAX,
    messageKeyAgeMsMax: config.messageKey.ageMsMax,
    messageKeyMessagesMax: config.messageKey.messagesMax,
    messageKeyBytesMax: config.messageKey.bytesMax,
    missBudgetBurst: config.missBudget.burst,
    missBudgetPerSecond: config.missBudget.perSecond,
  }
}

export function authorizeService(
  { engine, principal, origin }: ManagementRequest,
  action: Action,
  attributes: RequestAttributes = {},
): void {
  engine.authorizer.authorizeService(principal, action, { ...origin, ...attributes })
}

function authorizeAlias(
  { engine, principal, origin }: ManagementRequest,
  action: Action,
  alias: string,
): void {
  // An alias ARN names the same alias.
  const name = aliasNameOf(alias) ?? alias
  engine.authorizer.authorizeAlias(principal, action, name, origin)
}

/** An alias that is not there looks like one of a forbidden key, unless the caller may see every key. */
export async function authorizeKey(
  { engine, principal, origin, record }: ManagementRequest,
  action: Action,
  reference: string,
  attributes: RequestAttributes = {},
): Promise<KmsKey> {
  const { authorizer, kms } = engine
  let kmsKey: KmsKey
  try {
    kmsKey = await kms.registry.resolve(reference)
  } catch (error) {
    const absent = error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND'
    throw absent ? authorizer.absentKeyError(principal, action) : error
  }
  record?.about(kmsKey.arn)
  const alias = aliasNameOf(reference)
  authorizer.authorize(principal, action, kmsKey, { ...origin, alias, ...attributes })
  return kmsKey
}

export function describe(kmsKey: KmsKey): PlainValue {
  return { ...metadataOf(kmsKey) }
}

function describeToken(record: TokenRecord): PlainValue {
  return { ...record }
}

function describeAccessKey(record: AccessKeyRecord): PlainValue {
  return { ...record }
}

function page(
  name: string,
  { items, nextMarker }: Page<Readonly<Record<string, string>>>,
): PlainValue {
  return { [name]: items, nextMarker }
}

export function pageRequest(query: URLSearchParams): {
  limit: number | undefined
  marker: string | undefined
} {
  const limit = query.get('limit')
  return {
    limit: limit === null ? undefined : Number(limit),
    marker: query.get('marker') ?? undefined,
  }
}

export function text(fields: ReadonlyMap<string, Value>, name: string): string {
  const value = optionalText(fields, name)
  if (value === undefined) throw malformed(name, 'is missing')
  return value
}

export function optionalText(fields: ReadonlyMap<string, Value>, name: string): string | undefined {
  const value = fields.get(name)
  if (value === undefined) return undefined
  if (typeof value !== 'string') throw malformed(name, 'a string is needed')
  return value
}

export function optionalNumber(
  fields: ReadonlyMap<string, Value>,
  name: string,
): number | undefined {
  const value = fields.get(name)
  if (value === undefined || typeof value === 'number') return value
  throw malformed(name, 'an unsigned integer is needed')
}

export function textList(fields: ReadonlyMap<string, Value>, name: string): readonly string[] {
  const value = fields.get(name)
  if (!Array.isArray(value)) throw malformed(name, 'an array of strings is needed')
  return value.map((element: Value) => {
    if (typeof element !== 'string') throw malformed(name, 'an array of strings is needed')
    return element
  })
}

export function optionalBoolean(
  fields: ReadonlyMap<string, Value>,
  name: string,
): boolean | undefined {
  const value = fields.get(name)
  if (value !== undefined && typeof value !== 'boolean') {
    throw malformed(name, 'a boolean is needed')
  }
  return value
}

/** The moment that `expiresInSeconds` is away from now. */
function optionalExpiry(fields: ReadonlyMap<string, Value>): number | undefined {
  const seconds = optionalNumber(fields, 'expiresInSeconds')
  return seconds === undefined ? undefined : Date.now() + 1000 * seconds
}

export function optionalTexts(
  fields: ReadonlyMap<string, Value>,
  name: string,
): ReadonlyMap<string, string> | undefined {
  const value = fields.get(name)
  if (value === undefined) return undefined
  if (!(value instanceof Map)) throw malformed(name, 'a map of strings is needed')
  const texts = new Map<string, string>()
  for (const [key, element] of value as ReadonlyMap<string, Value>) {
    if (typeof element !== 'string') throw malformed(name, 'a map of strings is needed')
    texts.set(key, element)
  }
  return texts
}
