/**
 * Whoever has no right to a key gets one answer, byte for byte, whether it is absent, disabled, waiting for its deletion
 * or forbidden: at both doors, by every name, and by what was sealed under it.
 */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { allow, deny, documentOf, to, type StatementJson } from '../kms/policy/samples.ts'
import { startService, type Service } from '../service.ts'
import { base64, callerOf, everyAwsOperation, rootOf, type Caller, type Got } from './sdk.ts'

const CONTEXT = { table: 'orders' }

let service: Service
let admin: Caller
/** Callers who may nothing with the keys below, each for another reason. */
const strangers = new Map<string, Caller>()

interface Target {
  readonly kind: string
  readonly id: string
  readonly arn: string
  readonly alias: string
  readonly aliasArn: string
  readonly inline: Uint8Array
  readonly blob: Uint8Array
}
const targets: Target[] = []

const userArn = (name: string): string =>
  `arn:aws:iam::${service.engine.config.account}:user/${name}`

beforeAll(async () => {
  service = await startService()
  admin = await callerOf(service, rootOf(service))
  const permit = (name: string, ...statements: readonly StatementJson[]): Promise<void> =>
    service.engine.identityPolicies.put({
      principalArn: userArn(name),
      name: 'test',
      document: documentOf(...statements),
    })
  const theirs = await service.createKey()
  const { arn } = (await admin.v1('GET', `keys/${theirs}`)).answer

  strangers.set('nobody', await callerOf(service, userArn('nobody'), ['keyfold:ReadMetrics']))
  // Everything, of another key.
  await permit('neighbour', allow({ Resource: arn }))
  strangers.set('neighbour', await callerOf(service, userArn('neighbour'), ['keyfold:ReadMetrics']))
  // Everything, and then nothing after all.
  await permit('banned', allow(), deny())
  strangers.set('banned', await callerOf(service, userArn('banned')))
  // What another account's root is, to a key that does not name it.
  const foreign = 'arn:aws:iam::999999999999:root'
  strangers.set('foreign', await callerOf(service, foreign, ['keyfold:ReadMetrics']))

  targets.push(await absent())
  for (const kind of ['forbidden', 'forbidden by its policy', 'disabled', 'pending deletion']) {
    targets.push(await present(kind))
  }
})
afterAll(() => service.close())

async function present(kind: string): Promise<Target> {
  const { keyId: id, arn } = (await admin.v1('POST', 'keys', {})).answer
  const alias = `alias/${randomUUID()}`
  await service.call('aliases', { alias, key: id })
  const target = { kind, id, arn, alias, ...(await seal(service, admin, id)) }
  if (kind === 'forbidden by its policy') {
    const names = [...strangers.values()].map((stranger) => stranger.arn)
    const policy = documentOf(allow(to(rootOf(service))), deny(to(...names)))
    expect((await admin.v1('PUT', `keys/${id}/policy`, { policy })).status).toBe(200)
  }
  if (kind === 'disabled') await admin.aws('DisableKey', { KeyId: id })
  if (kind === 'pending deletion') await admin.aws('ScheduleKeyDeletion', { KeyId: id })
  const { answer } = await admin.aws('DescribeKey', { KeyId: alias })
  const { KeyState: state } = answer['KeyMetadata'] as { readonly KeyState: string }
  expect(state).toBe(
    { disabled: 'Disabled', 'pending deletion': 'PendingDeletion' }[kind] ?? 'Enabled',
  )
  return { ...target, aliasArn: aliasArnOf(arn, alias) }
}

/** Of another keyfold, whose ids are none here. */
async function absent(): Promise<Target> {
  const far = await startService()
  try {
    const farAdmin = await callerOf(far, rootOf(far))
    const { keyId: id, arn } = (await farAdmin.v1('POST', 'keys', {})).answer
    const alias = `alias/${randomUUID()}`
    const sealed = await seal(far, farAdmin, id)
    return { kind: 'absent', id, arn, alias, aliasArn: aliasArnOf(arn, alias), ...sealed }
  } finally {
    await far.close()
  }
}

const aliasArnOf = (arn: string, alias: string): string => arn.replace(/:key\/.*$/, `:${alias}`)

async function seal({ call }: Service, caller: Caller, key: string) {
  const { ciphertexts } = await call('encrypt', {
    key,
    context: CONTEXT,
    plaintexts: [Buffer.from('plaintext')],
  })
  const { answer } = await caller.aws('Encrypt', {
    KeyId: key,
    Plaintext: 'AAAA',
    EncryptionContext: CONTEXT,
  })
  const blob = Buffer.from(answer['CiphertextBlob'] as string, 'base64')
  return { inline: Uint8Array.from(ciphertexts[0] as Uint8Array), blob }
}

/** Status and body, without the id of the request and, in MessagePack, its length. */
function tell({ status, text, answer: { requestId = '' } }: Got): string {
  const packed = String.fromCharCode(0xa0 + requestId.length) + requestId
  return `${status} ${requestId === '' ? text : text.replace(packed, '')}`
}

/** Fails unless all are the same, with these words. */
function expectOne(answers: ReadonlyMap<string, string>, what: string, words: RegExp): void {
  const different = new Set(answers.values())
  expect([...different], `${what}: ${JSON.stringify([...answers], undefined, 1)}`).toHaveLength(1)
  expect([...different][0], what).toMatch(words)
}

const NAMES = ['id', 'arn', 'alias', 'aliasArn'] as const
const STRANGERS = ['nobody', 'neighbour', 'banned', 'foreign']

describe.each(STRANGERS)('%s', (name) => {
  const stranger = (): Caller => strangers.get(name) as Caller

  test('is told one thing by every operation of AWS KMS on a key', async () => {
    const [{ id, inline, alias }] = targets as [Target]
    // Those that name no key are the same for all, and are here to be refused.
    for (const [operation] of everyAwsOperation(id, inline, alias, CONTEXT)) {
      const answers = new Map<string, string>()
      for (const target of targets) {
        for (const by of NAMES) {
          const key = target[by]
          const all = everyAwsOperation(key, target.blob, target.alias, CONTEXT)
          const [, input] = all.find(([each]) => each === operation) as [string, object]
          answers.set(`${target.kind} by ${by}`, tell(await stranger().aws(operation, input)))
        }
      }
      expectOne(answers, operation, /^400 .*"AccessDeniedException"/)
    }
  })

  test('is told one thing by Decrypt and ReEncrypt of what was sealed under it', async () => {
    for (const operation of ['Decrypt', 'ReEncrypt']) {
      const answers = new Map<string, string>()
      for (const target of targets) {
        for (const form of ['blob', 'inline'] as const) {
          const got = await stranger().aws(operation, {
            CiphertextBlob: base64(target[form]),
            EncryptionContext: CONTEXT,
            SourceEncryptionContext: CONTEXT,
            DestinationKeyId: target.id,
          })
          answers.set(`${form} of ${target.kind}`, tell(got))
        }
      }
      expectOne(answers, operation, /^400 .*"AccessDeniedException"/)
    }
  })

  test('is told one thing by every route of /v1 on a key', async () => {
    const plaintexts = [Buffer.from('plaintext')]
    const policy = documentOf(allow(to(rootOf(service))))
    type Method = Parameters<Caller['v1']>[0]
    const routes: readonly (readonly [Method, (key: string) => string, object?])[] = [
      ['GET', (key) => `keys/${key}`],
      ['POST', (key) => `keys/${key}/enable`, {}],
      ['POST', (key) => `keys/${key}/disable`, {}],
      ['POST', (key) => `keys/${key}/rotate`, {}],
      ['GET', (key) => `keys/${key}/policy`],
      ['PUT', (key) => `keys/${key}/policy`, { policy }],
      ['POST', (key) => `keys/${key}/enable-rotation`, {}],
      ['POST', (key) => `keys/${key}/disable-rotation`, {}],
      ['GET', (key) => `keys/${key}/rotations`],
      ['POST', (key) => `keys/${key}/schedule-deletion`, {}],
      ['POST', (key) => `keys/${key}/cancel-deletion`, {}],
      ['POST', () => 'aliases', { alias: 'alias/x' }],
      ['GET', (key) => `aliases?key=${key}`],
      ['POST', () => 'encrypt', { plaintexts, context: CONTEXT }],
      ['POST', () => 'data-keys', { count: 1, plaintext: true }],
      ['POST', () => 're-encrypt', { mode: 'rewrap', ciphertexts: 'inline', context: CONTEXT }],
      ['POST', () => 're-encrypt', { mode: 'fresh', ciphertexts: 'inline', context: CONTEXT }],
    ]
    for (const [method, path, fields] of routes) {
      const answers = new Map<string, string>()
      for (const target of targets) {
        for (const by of NAMES) {
          const key = target[by]
          const named = fields !== undefined && !path('').startsWith('keys/')
          const request = {
            ...fields,
            ...(named ? { key } : {}),
            ...(fields !== undefined && 'ciphertexts' in fields
              ? { ciphertexts: [target.inline] }
              : {}),
          }
          const got = await stranger().v1(
            method,
            path(encodeURIComponent(key)),
            fields === undefined ? undefined : request,
          )
          answers.set(`${target.kind} by ${by}`, tell(got))
        }
      }
      expectOne(answers, `${method} ${path('')}`, /ACCESS_DENIED/)
    }
  })

  test('is told one thing by /v1 of what was sealed under it', async () => {
    for (const form of ['blob', 'inline'] as const) {
      const answers = new Map<string, string>()
      for (const target of targets) {
        const request = { context: CONTEXT, ciphertexts: [target[form]] }
        answers.set(target.kind, tell(await stranger().v1('POST', 'decrypt', request)))
      }
      expectOne(answers, form, /ACCESS_DENIED/)
    }
  })
})
