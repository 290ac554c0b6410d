/**
 * Management: KMS keys, aliases, tokens and access keys. Small maps in, small maps out; the fields that each handler takes
 * stand in the table of routes, and others are refused there.
 */
import type { Engine } from '../engine.ts'
import { KeyfoldError } from '../errors.ts'
import { malformed, type PlainValue, type Value } from '../format/msgpack.ts'
import * as limits from '../limits.ts'
import type { AccessKeyRecord } from '../kms/access-keys.ts'
import { absentKeyError, authorize, authorizeService } from '../kms/authorize.ts'
import type { Action, KmsKey, Principal } from '../kms/kms-key.ts'
import { metadataOf } from '../kms/kms.ts'
import type { Page } from '../kms/parts.ts'
import type { TokenRecord } from '../kms/tokens.ts'

export interface ManagementRequest {
  readonly engine: Engine
  readonly principal: Principal
  /** What stands for `:name` in the path, decoded. */
  readonly name: string
  readonly query: URLSearchParams
  readonly fields: ReadonlyMap<string, Value>
}

export type ManagementHandler = (request: ManagementRequest) => Promise<PlainValue>

export const createKey: ManagementHandler = async ({ engine, principal, fields }) => {
  authorizeService(principal, 'kms:CreateKey')
  const alias = optionalText(fields, 'alias')
  if (alias !== undefined) authorizeService(principal, 'kms:CreateAlias')
  return describe(
    await engine.kms.createKey({
      description: optionalText(fields, 'description'),
      alias,
      tags: optionalTexts(fields, 'tags'),
    }),
  )
}

export const listKeys: ManagementHandler = async ({ engine, principal, query }) => {
  authorizeService(principal, 'kms:ListKeys')
  return page('keys', await engine.kms.listKeys(pageRequest(query)))
}

export const describeKey: ManagementHandler = async (request) => {
  await authorizeKey(request, 'kms:DescribeKey', request.name)
  return describe(await request.engine.kms.describeKey(request.name))
}

export const enableKey: ManagementHandler = async (request) => {
  await authorizeKey(request, 'kms:EnableKey', request.name)
  return describe(await request.engine.kms.enableKey(request.name))
}

export const disableKey: ManagementHandler = async (request) => {
  await authorizeKey(request, 'kms:DisableKey', request.name)
  return describe(await request.engine.kms.disableKey(request.name))
}

export const rotateKey: ManagementHandler = async (request) => {
  await authorizeKey(request, 'kms:RotateKeyOnDemand', request.name)
  return describe(await request.engine.kms.rotations.rotateOnDemand(request.name))
}

export const listAliases: ManagementHandler = async (request) => {
  const { engine, principal, query } = request
  authorizeService(principal, 'kms:ListAliases')
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
  await authorizeKey(request, 'kms:CreateAlias', key)
  await request.engine.kms.aliases.create(text(request.fields, 'alias'), key)
  return {}
}

/** Both keys are asked for: whoever moves an alias takes it from one and gives it to the other. */
export const updateAlias: ManagementHandler = async (request) => {
  const key = text(request.fields, 'key')
  await authorizeKey(request, 'kms:UpdateAlias', request.name)
  await authorizeKey(request, 'kms:UpdateAlias', key)
  await request.engine.kms.aliases.update(request.name, key)
  return {}
}

export const deleteAlias: ManagementHandler = async (request) => {
  await authorizeKey(request, 'kms:DeleteAlias', request.name)
  await request.engine.kms.aliases.delete(request.name)
  return {}
}

export const listTokens: ManagementHandler = async ({ engine, principal }) => {
  authorizeService(principal, 'keyfold:ManageTokens')
  return { tokens: engine.tokens.list().map(describeToken) }
}

export const createToken: ManagementHandler = async ({ engine, principal, fields }) => {
  authorizeService(principal, 'keyfold:ManageTokens')
  const { token, record } = await engine.tokens.create({
    name: text(fields, 'name'),
    principalArn: optionalText(fields, 'principal'),
    actions: textList(fields, 'actions'),
    keys: textList(fields, 'keys'),
    expiresAtMs: optionalExpiry(fields),
  })
  return { tokenId: record.tokenId, token }
}

export const revokeToken: ManagementHandler = async ({ engine, principal, name }) => {
  authorizeService(principal, 'keyfold:ManageTokens')
  await engine.tokens.revoke(name)
  return {}
}

export const listAccessKeys: ManagementHandler = async ({ engine, principal }) => {
  authorizeService(principal, 'keyfold:ManageAccessKeys')
  return { accessKeys: engine.accessKeys.list().map(describeAccessKey) }
}

export const createAccessKey: ManagementHandler = async ({ engine, principal, fields }) => {
  authorizeService(principal, 'keyfold:ManageAccessKeys')
  const { secretAccessKey, sessionToken, record } = await engine.accessKeys.create({
    principalArn: text(fields, 'principal'),
    temporary: optionalBoolean(fields, 'temporary'),
    expiresAtMs: optionalExpiry(fields),
  })
  return { accessKeyId: record.accessKeyId, secretAccessKey, sessionToken }
}

export const revokeAccessKey: ManagementHandler = async ({ engine, principal, name }) => {
  authorizeService(principal, 'keyfold:ManageAccessKeys')
  await engine.accessKeys.revoke(name)
  return {}
}

export const lock: ManagementHandler = async ({ engine, principal }) => {
  authorizeService(principal, 'keyfold:Lock')
  engine.lock()
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
    messageKeyAgeMsMax: config.messageKey.ageMsMax,
    messageKeyMessagesMax: config.messageKey.messagesMax,
    messageKeyBytesMax: config.messageKey.bytesMax,
    missBudgetBurst: config.missBudget.burst,
    missBudgetPerSecond: config.missBudget.perSecond,
  }
}

/** An alias that is not there looks like one of a forbidden key, unless the caller may see every key. */
async function authorizeKey(
  { engine, principal }: ManagementRequest,
  action: Action,
  reference: string,
): Promise<void> {
  try {
    authorize(principal, action, await engine.kms.registry.resolve(reference))
  } catch (error) {
    const absent = error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND'
    throw absent ? absentKeyError(principal, action) : error
  }
}

function describe(kmsKey: KmsKey): PlainValue {
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

function pageRequest(query: URLSearchParams): {
  limit: number | undefined
  marker: string | undefined
} {
  const limit = query.get('limit')
  return {
    limit: limit === null ? undefined : Number(limit),
    marker: query.get('marker') ?? undefined,
  }
}

function text(fields: ReadonlyMap<string, Value>, name: string): string {
  const value = optionalText(fields, name)
  if (value === undefined) throw malformed(name, 'is missing')
  return value
}

function optionalText(fields: ReadonlyMap<string, Value>, name: string): string | undefined {
  const value = fields.get(name)
  if (value === undefined) return undefined
  if (typeof value !== 'string') throw malformed(name, 'a string is needed')
  return value
}

function textList(fields: ReadonlyMap<string, Value>, name: string): readonly string[] {
  const value = fields.get(name)
  if (!Array.isArray(value)) throw malformed(name, 'an array of strings is needed')
  return value.map((element: Value) => {
    if (typeof element !== 'string') throw malformed(name, 'an array of strings is needed')
    return element
  })
}

function optionalBoolean(fields: ReadonlyMap<string, Value>, name: string): boolean | undefined {
  const value = fields.get(name)
  if (value !== undefined && typeof value !== 'boolean') {
    throw malformed(name, 'a boolean is needed')
  }
  return value
}

/** The moment that `expiresInSeconds` is away from now. */
function optionalExpiry(fields: ReadonlyMap<string, Value>): number | undefined {
  const seconds = fields.get('expiresInSeconds')
  if (seconds === undefined) return undefined
  if (typeof seconds !== 'number') {
    throw malformed('expiresInSeconds', 'an unsigned integer is needed')
  }
  return Date.now() + 1000 * seconds
}

function optionalTexts(
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
