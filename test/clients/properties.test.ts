/**
 * What no sequence of operations may break, at either door: a key that is not enabled does nothing, a right lends no
 * other, and whoever has none learns nothing of a key, not even whether it is there.
 */
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { allow, deny, documentOf, to, type StatementJson } from '../kms/policy/samples.ts'
import { startService, type Service } from '../service.ts'
import { base64, callerOf, everyAwsOperation, type Caller, type Got } from './sdk.ts'

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
  })
})

const CONTEXT = { table: 'orders' }

/** A key of its own, what was sealed under it with CONTEXT in every form, and every plaintext in there. */
interface Sealed {
  readonly key: string
  readonly inline: readonly Uint8Array[]
  readonly packed: Uint8Array
  readonly detached: Uint8Array
  readonly keyEntry: Uint8Array
  readonly blob: Uint8Array
  readonly wrappedKey: Uint8Array
  readonly plaintexts: readonly Uint8Array[]
}

async function seal(): Promise<Sealed> {
  const key = await service.createKey()
  const rows = ['first', 'second', 'third', 'fourth'].map((row) => Buffer.from(`the ${row} row`))
  const encrypt = async (form: string, plaintexts: readonly Uint8Array[]) =>
    (await admin.v1('POST', 'encrypt', { key, context: CONTEXT, plaintexts, form })).answer
  const [first, second, third, fourth] = rows as [Buffer, Buffer, Buffer, Buffer]
  const { ciphertexts: inline } = await encrypt('inline', [first, second])
  const { packed } = await encrypt('packed', [third])
  const { ciphertexts, keyEntry } = await encrypt('detached', [third])
  const { answer } = await admin.aws('Encrypt', {
    KeyId: key,
    Plaintext: base64(fourth),
    EncryptionContext: CONTEXT,
  })
  const request = { key, context: CONTEXT, count: 1, plaintext: true }
  const { dataKeys } = (await admin.v1('POST', 'data-keys', request)).answer
  const [dataKey] = dataKeys
  return {
    key,
    inline,
    packed,
    detached: ciphertexts[0] as Uint8Array,
    keyEntry,
    blob: Buffer.from(answer['CiphertextBlob'] as string, 'base64'),
    wrappedKey: dataKey?.wrappedKey as Uint8Array,
    plaintexts: [...rows, dataKey?.plaintext as Uint8Array],
  }
}

/** Every operation of /v1 on messages, in every form. */
function everyOperation({ key, ...sealed }: Sealed): readonly (readonly [string, object])[] {
  const context = CONTEXT
  const plaintexts = [PLAINTEXT]
  const ciphertexts = [...sealed.inline, sealed.blob, sealed.wrappedKey]
  const { packed, keyEntry } = sealed
  const detached = { ciphertexts: [sealed.detached], keyEntries: [keyEntry] }
  const reading = [
    { context, ciphertexts },
    { context, packed },
    { context, ...detached },
  ]
  return [
    ...['inline', 'packed', 'detached'].map(
      (form) => ['encrypt', { key, context, plaintexts, form }] as const,
    ),
    ...reading.map((request) => ['decrypt', request] as const),
    ...['rewrap', 'fresh'].flatMap((mode) =>
      reading.map((request) => ['re-encrypt', { key, mode, ...request }] as const),
    ),
    ...[true, false].map(
      (plaintext) => ['data-keys', { key, context, count: 1, plaintext }] as const,
    ),
  ]
}

/** What a caller may get of an operation: everything in any answer that is bytes of ciphertexts or plaintexts. */
function bytesIn({ answer }: Got): readonly Uint8Array[] {
  const fields = [
    ...(answer.ciphertexts ?? []),
    ...(answer.plaintexts ?? []),
    ...(answer.keyEntries ?? []),
    ...(answer.dataKeys ?? []).flatMap((dataKey) => [dataKey.wrappedKey, dataKey.plaintext]),
    answer.packed,
    answer.keyEntry,
  ]
  return fields.filter((bytes) => bytes instanceof Uint8Array)
}

async function callerWith(name: string, action: string): Promise<Caller> {
  const caller = await callerOf(service, userArn(name), [action])
  await permit(caller.arn, allow({ Action: action }))
  return caller
}

describe('who may only decrypt', () => {
  test('is refused every other operation, and gets nothing but the plaintexts', async () => {
    const reader = await callerWith('reader', 'kms:Decrypt')
    const sealed = await seal()
    const alias = `alias/${randomUUID()}`
    await service.call('aliases', { alias, key: sealed.key })
    for (const ciphertext of [...sealed.inline, sealed.blob, sealed.wrappedKey]) {
      for (const [operation, input] of everyAwsOperation(sealed.key, ciphertext, alias, CONTEXT)) {
        const { status, text } = await reader.aws(operation, input)
        expect(status === 200, `${operation}: ${text}`).toBe(operation === 'Decrypt')
        if (status !== 200) expect(text).toContain('AccessDeniedException')
      }
    }
    const known = new Set(sealed.plaintexts.map(base64))
    for (const [route, request] of everyOperation(sealed)) {
      const got = await reader.v1('POST', route, request)
      const found = bytesIn(got)
      expect(found.length > 0, `${route}: ${got.text}`).toBe(route === 'decrypt')
      expect(found.map(base64).filter((bytes) => !known.has(bytes))).toEqual([])
    }
  })

  test('cannot join what he holds to a message that says anything new to another', async () => {
    const [one, two] = [await seal(), await seal()]
    const sources = [one, two].flatMap((sealed) => [
      ...sealed.inline,
      Buffer.concat([Buffer.of(0xe1, 1), sealed.keyEntry, sealed.detached.subarray(18)]),
      sealed.packed,
      sealed.detached,
      sealed.keyEntry,
      sealed.blob,
      sealed.wrappedKey,
      ...sealed.plaintexts,
    ])
    const known = new Set([one, two].flatMap(({ plaintexts }) => plaintexts.map(base64)))
    /** Of an inline message, as README's formats have it: head, commitment, length, wrapped key, nonce, sealed. */
    const ENDS = [2, 34, 36, 131, 155]
    const whole = sources.filter((source) => source[0] === 0xe1)
    const source = fc.constantFrom(...sources)
    const piece = fc.tuple(source, fc.nat(), fc.nat()).map(([bytes, from, length]) => {
      const start = from % bytes.length
      return bytes.subarray(start, start + 1 + (length % (bytes.length - start)))
    })
    const joined = fc.array(piece, { minLength: 1, maxLength: 5 }).map((all) => Buffer.concat(all))
    const grafted = fc
      .array(fc.constantFrom(...whole), { minLength: 6, maxLength: 6 })
      .map((parts) =>
        Buffer.concat(parts.map((from, i) => from.subarray(ENDS[i - 1] ?? 0, ENDS[i]))),
      )
    const edited = fc
      .tuple(source, fc.nat(), fc.integer({ min: 0, max: 255 }))
      .map(([bytes, at, value]) => {
        const copy = Buffer.from(bytes)
        copy[at % copy.length] = value
        return copy
      })
    const forged = fc.oneof(joined, grafted, edited)
    const context = CONTEXT
    let opened = 0
    await fc.assert(
      fc.asyncProperty(forged, fc.constantFrom(one, two), async (message, { keyEntry }) => {
        const answers = [
          await admin.v1('POST', 'decrypt', { context, ciphertexts: [message] }),
          await admin.v1('POST', 'decrypt', { context, packed: message }),
          await admin.v1('POST', 'decrypt', {
            context,
            ciphertexts: [message],
            keyEntries: [keyEntry],
          }),
        ]
        const { answer } = await admin.aws('Decrypt', {
          CiphertextBlob: base64(message),
          EncryptionContext: CONTEXT,
        })
        const told = answers.flatMap(bytesIn).map(base64)
        if (answer['Plaintext'] !== undefined) told.push(answer['Plaintext'] as string)
        opened += told.length
        expect(told.filter((plaintext) => !known.has(plaintext))).toEqual([])
      }),
      // The first is no forgery: what nobody has changed does open.
      { numRuns: 400, examples: [[Buffer.from(one.inline[0] as Uint8Array), one]] },
    )
    expect(opened).toBeGreaterThan(0)
  })
})

describe('who may only encrypt', () => {
  test('is refused every other operation, and reads nothing, not even his own', async () => {
    const writer = await callerWith('writer', 'kms:Encrypt')
    const sealed = await seal()
    const alias = `alias/${randomUUID()}`
    await service.call('aliases', { alias, key: sealed.key })
    const own = await writer.aws('Encrypt', {
      KeyId: sealed.key,
      Plaintext: base64(PLAINTEXT),
      EncryptionContext: CONTEXT,
    })
    const blob = Buffer.from(own.answer['CiphertextBlob'] as string, 'base64')
    const secrets = [...sealed.plaintexts, PLAINTEXT]
    const tellsNothing = ({ text }: Got): void => {
      for (const secret of secrets) {
        expect(text).not.toContain(base64(secret))
        expect(text).not.toContain(Buffer.from(secret).toString('latin1'))
      }
    }
    for (const ciphertext of [...sealed.inline, sealed.blob, sealed.wrappedKey, blob]) {
      for (const [operation, input] of everyAwsOperation(sealed.key, ciphertext, alias, CONTEXT)) {
        const got = await writer.aws(operation, input)
        expect(got.status === 200, `${operation}: ${got.text}`).toBe(operation === 'Encrypt')
        if (got.status !== 200) expect(got.text).toContain('AccessDeniedException')
        tellsNothing(got)
      }
    }
    for (const [route, request] of everyOperation({ ...sealed, blob })) {
      const got = await writer.v1('POST', route, request)
      expect(bytesIn(got).length > 0, `${route}: ${got.text}`).toBe(route === 'encrypt')
      tellsNothing(got)
    }
  })
})
