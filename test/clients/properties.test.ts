/**
 * What no sequence of operations may break, at either door: a key that is not enabled does nothing, a right lends no
 * other, and whoever has none learns nothing of a key, not even whether it is there.
 */
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { allow, deny, documentOf, to, type StatementJson } from '../kms/policy/samples.ts'
import { startService, type Service } from '../service.ts'
import { callerOf, type Caller } from './sdk.ts'

let service: Service
let admin: Caller
let delegate: StatementJson

const userArn = (name: string): string =>
  `arn:aws:iam::${service.engine.config.account}:user/${name}`
const rootArn = (): string => `arn:aws:iam::${service.engine.config.account}:root`

beforeAll(async () => {
  service = await startService()
  admin = await callerOf(service, rootArn())
  delegate = allow(to(rootArn()))
})
afterAll(() => service.close())

/** Allows by access key what the token of the caller allows by itself. */
async function permit(arn: string, ...statements: readonly StatementJson[]): Promise<void> {
  await service.engine.identityPolicies.put({
    principalArn: arn,
    name: 'test',
    document: documentOf(...statements),
  })
}

async function putPolicy(key: string, ...statements: readonly StatementJson[]): Promise<void> {
  const policy = documentOf(...statements)
  const got = await admin.v1('PUT', `keys/${key}/policy`, { policy })
  expect(got.status).toBe(200)
}

const PLAINTEXT = Buffer.from('four and twenty blackbirds')

describe('a key that is not enabled', () => {
  type Policy = 'open' | 'no encryption' | 'closed'
  interface Model {
    readonly id: string
    state: 'Enabled' | 'Disabled' | 'PendingDeletion'
    policy: Policy
    readonly ciphertexts: Uint8Array[]
  }
  const KEYS = 3
  const ALIASES = 2
  const place = fc.nat(KEYS - 1)
  const aws = fc.boolean()
  const step = fc.oneof(
    fc.record({
      kind: fc.constantFrom(
        ...(['enable', 'disable', 'schedule', 'cancel', 'rotate', 'replace'] as const),
      ),
      key: place,
      aws,
    }),
    fc.record({ kind: fc.constant('alias' as const), key: place, alias: fc.nat(ALIASES - 1), aws }),
    fc.record({
      kind: fc.constant('policy' as const),
      key: place,
      policy: fc.constantFrom<Policy>('open', 'no encryption', 'closed'),
    }),
  )
  type Step = typeof step extends fc.Arbitrary<infer S> ? S : never

  /** What each operation asks of the state, and makes of it (AWS KMS, "Key states of AWS KMS keys"). */
  const CHANGES = {
    enable: { route: 'enable', aws: 'EnableKey', from: ['Enabled', 'Disabled'], to: 'Enabled' },
    disable: { route: 'disable', aws: 'DisableKey', from: ['Enabled', 'Disabled'], to: 'Disabled' },
    schedule: {
      route: 'schedule-deletion',
      aws: 'ScheduleKeyDeletion',
      from: ['Enabled', 'Disabled'],
      to: 'PendingDeletion',
    },
    cancel: {
      route: 'cancel-deletion',
      aws: 'CancelKeyDeletion',
      from: ['PendingDeletion'],
      to: 'Disabled',
    },
    rotate: { route: 'rotate', aws: 'RotateKeyOnDemand', from: ['Enabled'], to: 'Enabled' },
  } as const

  let app: Caller
  beforeAll(async () => {
    app = await callerOf(service, userArn('app'))
    await permit(userArn('app'), allow())
  })

  async function newKey(): Promise<Model> {
    const id = await service.createKey()
    return { id, state: 'Enabled', policy: 'open', ciphertexts: [] }
  }

  async function take(each: Step, keys: Model[], aliases: readonly string[], at: number[]) {
    const model = keys[each.key] as Model
    if (each.kind === 'replace') {
      keys[each.key] = await newKey()
      for (const [i, target] of at.entries()) if (target === each.key) at[i] = -1
    } else if (each.kind === 'policy') {
      const statements = {
        open: [],
        'no encryption': [deny({ ...to(userArn('app')), Action: 'kms:Encrypt' })],
        closed: [deny({ ...to(userArn('app')), Action: ['kms:Encrypt', 'kms:Decrypt'] })],
      }[each.policy]
      await putPolicy(model.id, delegate, ...statements)
      model.policy = each.policy
    } else if (each.kind === 'alias') {
      const alias = aliases[each.alias] as string
      const got = each.aws
        ? await admin.aws('UpdateAlias', { AliasName: alias, TargetKeyId: model.id })
        : await admin.v1('PUT', `aliases/${encodeURIComponent(alias)}`, { key: model.id })
      // Whether it may move is the matter of other tests; where it points then is that of this one.
      if (got.status === 200) at[each.alias] = each.key
    } else {
      const change = CHANGES[each.kind]
      const got = each.aws
        ? await admin.aws(change.aws, { KeyId: model.id })
        : await admin.v1('POST', `keys/${model.id}/${change.route}`, {})
      const expected = (change.from as readonly string[]).includes(model.state)
      expect(got.status === 200, `${each.kind} of ${model.state}: ${got.text}`).toBe(expected)
      if (expected) model.state = change.to
    }
  }

  /** Both doors, by every name, and what was sealed at any time before. */
  async function look(keys: readonly Model[], aliases: readonly string[], at: readonly number[]) {
    for (const [i, model] of keys.entries()) {
      const mayEncrypt = model.state === 'Enabled' && model.policy === 'open'
      const mayDecrypt = model.state === 'Enabled' && model.policy !== 'closed'
      const told = `${model.state}, ${model.policy}`
      for (const name of [model.id, ...aliases.filter((_, alias) => at[alias] === i)]) {
        const one = await app.v1('POST', 'encrypt', { key: name, plaintexts: [PLAINTEXT] })
        const two = await app.aws('Encrypt', { KeyId: name, Plaintext: base64(PLAINTEXT) })
        expect([one.status === 200, two.status === 200], told).toEqual([mayEncrypt, mayEncrypt])
        if (!mayEncrypt) continue
        expect(one.answer.keyId).toContain(model.id)
        expect(two.answer['KeyId']).toContain(model.id)
        model.ciphertexts.push(
          Uint8Array.from(one.answer.ciphertexts[0] as Uint8Array),
          Buffer.from(two.answer['CiphertextBlob'] as string, 'base64'),
        )
      }
      // The oldest two, of the first key material, and the newest two.
      const { ciphertexts } = model
      for (const ciphertext of new Set([...ciphertexts.slice(0, 2), ...ciphertexts.slice(-2)])) {
        const one = await app.v1('POST', 'decrypt', { ciphertexts: [ciphertext] })
        const two = await app.aws('Decrypt', { CiphertextBlob: base64(ciphertext) })
        const opened = one.status === 200 ? one.answer.plaintexts[0] : undefined
        expect(opened instanceof Uint8Array, told).toBe(mayDecrypt)
        expect(two.status === 200, told).toBe(mayDecrypt)
        if (!mayDecrypt) continue
        expect(base64(opened as Uint8Array)).toBe(base64(PLAINTEXT))
        expect(two.answer['Plaintext']).toBe(base64(PLAINTEXT))
      }
    }
  }

  test('neither encrypts nor decrypts, and one that is does both, after any sequence of changes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 10 }), async (steps) => {
        const keys = await Promise.all(Array.from({ length: KEYS }, newKey))
        const aliases = Array.from({ length: ALIASES }, () => `alias/${randomUUID()}`)
        const at = [0, 1]
        for (const [i, alias] of aliases.entries()) {
          await service.call('aliases', { alias, key: keys[i]?.id })
        }
        await look(keys, aliases, at)
        for (const each of steps) {
          await take(each, keys, aliases, at)
          await look(keys, aliases, at)
        }
      }),
      { numRuns: 25 },
    )
  }, 240_000)
})

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
