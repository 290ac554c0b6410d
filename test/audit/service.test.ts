/** What a server records: one record for each request, however it ended, with what it was about and nothing that is secret. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pack, unpack } from 'msgpackr'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'

import type { SettingTexts } from '../../dist/config.js'
import { verifyDirectory } from '../../dist/audit/verify.js'
import { startService, type Answer, type Service } from '../service.ts'
import { fillDisk, mountDisk } from './disk.ts'
import { filesOf, readEvents } from './log.ts'

type Event = Readonly<Record<string, unknown>> & {
  readonly eventName: string
  readonly requestID: string
  readonly errorCode?: string
  readonly additionalEventData: Readonly<Record<string, unknown>>
}

let service: Service
let keyId: string
let keyArn: string
let denied: string
let seen = 0

beforeAll(async () => {
  service = await startService()
  keyId = await service.createKey()
  ;({ arn: keyArn } = (await get(`keys/${keyId}`)).body)
  const { token } = await service.engine.tokens.create({
    name: 'reader',
    actions: ['kms:DescribeKey'],
    keys: ['*'],
  })
  denied = token
})
afterAll(() => service.close())

async function get(
  path: string,
  options: { readonly method?: string; readonly token?: string } = {},
): Promise<{ status: number; body: Answer }> {
  const { token = service.token, method = 'GET' } = options
  const response = await fetch(`${service.url}/v1/${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, accept: 'application/msgpack' },
  })
  return {
    status: response.status,
    body: unpack(Buffer.from(await response.arrayBuffer())) as Answer,
  }
}

async function post(
  path: string,
  body: Buffer,
  options: { readonly token?: string; readonly type?: string } = {},
): Promise<{ status: number; body: Answer }> {
  const { token = service.token, type = 'application/msgpack' } = options
  const response = await fetch(`${service.url}/v1/${path}`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${token}`,
      'content-type': type,
      accept: 'application/msgpack',
    },
    body,
  })
  return {
    status: response.status,
    body: unpack(Buffer.from(await response.arrayBuffer())) as Answer,
  }
}

const auditDirectory = (of: Service = service): string => join(of.dataDirectory, 'audit')

/** What was recorded since this was asked for the last time. */
async function newEvents(): Promise<readonly Event[]> {
  await service.engine.audit.flush()
  const events = readEvents(auditDirectory()) as readonly Event[]
  const fresh = events.slice(seen)
  seen = events.length
  return fresh
}

async function onlyEvent(): Promise<Event> {
  const events = await newEvents()
  expect(events).toHaveLength(1)
  return events[0] as Event
}

const rows = [Buffer.from('row one'), Buffer.from('row two')]

describe('a request of the data plane', () => {
  beforeAll(newEvents)

  test('leaves one record that says who did what under which key', async () => {
    const beforeMs = Date.now()
    await service.call('encrypt', { key: keyId, context: { table: 'orders' }, plaintexts: rows })
    const { eventTime, ...event } = await onlyEvent()
    expect(Date.parse(String(eventTime))).toBeGreaterThanOrEqual(beforeMs)
    expect(Date.parse(String(eventTime))).toBeLessThanOrEqual(Date.now())
    expect(event).toMatchObject({
      eventSource: 'keyfold',
      eventName: 'Encrypt',
      awsRegion: 'us-east-1',
      sourceIPAddress: '127.0.0.1',
      userIdentity: {
        type: 'Root',
        arn: 'arn:aws:iam::000000000000:root',
        accountId: '000000000000',
        credentialId: service.token.split('_')[1],
      },
      requestParameters: { encryptionContext: { table: 'orders' } },
      resources: [{ ARN: keyArn, accountId: '000000000000', type: 'AWS::KMS::Key' }],
      additionalEventData: { door: 'v1', messages: 2, bytes: 14, failed: 0 },
    })
    expect(event.errorCode).toBeUndefined()
  })

  test('leaves one whatever the operation is, with counts of messages, bytes and failures', async () => {
    const other = await service.createKey()
    await newEvents()
    const { ciphertexts } = await service.call('encrypt', { key: keyId, plaintexts: rows })
    const sealedByOther = await service.call('encrypt', { key: other, plaintexts: rows })
    const { packed } = await service.call('encrypt', {
      key: keyId,
      plaintexts: rows,
      form: 'packed',
    })
    const broken = Buffer.from(ciphertexts[0] as Uint8Array)
    broken[broken.length - 1] = (broken.at(-1) as number) ^ 1
    await service.call('decrypt', { ciphertexts: [...ciphertexts, broken, Buffer.from('no')] })
    await service.call('decrypt', { ciphertexts: [...ciphertexts, ...sealedByOther.ciphertexts] })
    await service.call('decrypt', { packed })
    await service.call('re-encrypt', { key: other, mode: 'rewrap', ciphertexts })
    await service.call('re-encrypt', { key: other, mode: 'fresh', ciphertexts })
    await service.call('re-encrypt', { key: other, mode: 'rewrap', packed })
    await service.call('data-keys', { key: keyId, count: 3, plaintext: true })
    await service.call('data-keys', { key: keyId, count: 2, plaintext: false })
    const events = await newEvents()
    const shown = events.map(({ eventName, additionalEventData, resources }) => {
      const { messages, bytes, failed } = additionalEventData
      const keys = (resources as { ARN: string }[]).map(({ ARN }) => (ARN === keyArn ? 'a' : 'b'))
      return [eventName, messages, bytes, failed, keys.join('')]
    })
    expect(shown).toEqual([
      ['Encrypt', 2, 14, 0, 'a'],
      ['Encrypt', 2, 14, 0, 'b'],
      ['Encrypt', 2, 14, 0, 'a'],
      ['Decrypt', 4, expect.any(Number), 2, 'a'],
      ['Decrypt', 4, 28, 0, 'ab'],
      ['Decrypt', 2, 14, 0, 'a'],
      ['ReEncrypt', 2, 14, 0, 'ab'],
      ['ReEncrypt', 2, 14, 0, 'ab'],
      ['ReEncrypt', 2, 14, 0, 'ab'],
      ['GenerateDataKey', 3, 96, 0, 'a'],
      ['GenerateDataKeyWithoutPlaintext', 2, 64, 0, 'a'],
    ])
  })

  test('in parts leaves one record for each part, under one request id', async () => {
    const operations = [
      { op: 'encrypt', key: keyId, plaintexts: rows },
      { op: 'encrypt', key: 'alias/none', plaintexts: rows },
      { op: 'data-keys', key: keyId, count: 1, plaintext: false },
    ]
    await post('batch', pack(operations))
    const events = await newEvents()
    expect(events.map(({ eventName, errorCode }) => [eventName, errorCode])).toEqual([
      ['Encrypt', undefined],
      ['Encrypt', 'KMS_KEY_NOT_FOUND'],
      ['GenerateDataKeyWithoutPlaintext', undefined],
    ])
    expect(new Set(events.map(({ requestID }) => requestID)).size).toBe(1)
    const { body } = await post('batch', pack([{ op: 'nothing' }]))
    const whole = await onlyEvent()
    expect(whole).toMatchObject({
      eventName: 'Batch',
      errorCode: body.code,
      requestID: body.requestId,
    })
  })
})

describe('a request that is refused', () => {
  beforeAll(newEvents)

  test('leaves one record with its code, the id that its caller was told, and the key that was meant', async () => {
    const sealed = await service.call('encrypt', { key: keyId, plaintexts: rows, form: 'packed' })
    const { ciphertexts } = await service.call('encrypt', { key: keyId, plaintexts: rows })
    await newEvents()
    const fields = { key: keyId, plaintexts: rows }
    const big = Buffer.alloc(80 * 2 ** 20)
    const cases: readonly [string, () => Promise<{ body: Answer }>, boolean][] = [
      ['UNAUTHENTICATED', () => post('encrypt', pack(fields), { token: 'kf_none' }), false],
      ['ACCESS_DENIED', () => post('encrypt', pack(fields), { token: denied }), true],
      [
        'ACCESS_DENIED',
        () => post('decrypt', pack({ packed: sealed.packed }), { token: denied }),
        true,
      ],
      [
        'ACCESS_DENIED',
        () => post('data-keys', pack({ key: keyId, count: 1, plaintext: true }), { token: denied }),
        true,
      ],
      [
        'ACCESS_DENIED',
        () =>
          post('re-encrypt', pack({ key: keyId, mode: 'rewrap', ciphertexts }), { token: denied }),
        true,
      ],
      ['KMS_KEY_NOT_FOUND', () => post('encrypt', pack({ ...fields, key: 'alias/none' })), false],
      ['REQUEST_MALFORMED', () => post('encrypt', Buffer.from('not msgpack')), false],
      ['REQUEST_MALFORMED', () => post('decrypt', pack({ ciphertexts: 1 })), false],
      [
        'MEDIA_TYPE_UNSUPPORTED',
        () => post('encrypt', pack(fields), { type: 'text/plain' }),
        false,
      ],
      ['REQUEST_TOO_LARGE', () => post('encrypt', big), false],
    ]
    for (const [code, send, namesKey] of cases) {
      const { body } = await send()
      expect(body.code).toBe(code)
      const event = await onlyEvent()
      expect(event.errorCode).toBe(code)
      expect(event.requestID).toBe(body.requestId)
      const named = (event['resources'] as { ARN: string }[] | undefined) ?? []
      expect(
        named.map(({ ARN }) => ARN),
        code,
      ).toEqual(namesKey ? [keyArn] : [])
    }
  })

  test('without a caller names none', async () => {
    await post('encrypt', pack({}), { token: 'kf_none' })
    const { userIdentity, sourceIPAddress } = await onlyEvent()
    expect({ userIdentity, sourceIPAddress }).toEqual({
      userIdentity: { type: 'Unknown' },
      sourceIPAddress: '127.0.0.1',
    })
  })

  test('message by message names the keys that were refused', async () => {
    const { ciphertexts } = await service.call('encrypt', { key: keyId, plaintexts: rows })
    await newEvents()
    const { body } = await post('decrypt', pack({ ciphertexts }), { token: denied })
    expect(body.errors).toEqual([
      [0, 'ACCESS_DENIED'],
      [1, 'ACCESS_DENIED'],
    ])
    const event = await onlyEvent()
    expect(event).toMatchObject({ eventName: 'Decrypt', resources: [{ ARN: keyArn }] })
    expect(event.additionalEventData).toMatchObject({ messages: 2, failed: 2 })
  })
})

describe('a management call', () => {
  beforeAll(newEvents)

  test('is on the disk when it is answered, and names its key', async () => {
    const { keyId: created } = await service.call('keys', {
      description: 'not recorded',
      alias: 'alias/a',
    })
    // No flush: it is there.
    const event = (readEvents(auditDirectory()) as readonly Event[]).at(-1)
    expect(event).toMatchObject({
      eventName: 'CreateKey',
      requestParameters: { alias: 'alias/a' },
      resources: [{ ARN: expect.stringContaining(created) as string }],
    })
    await newEvents()
    await get(`keys/${encodeURIComponent('alias/a')}/disable`, { method: 'POST' })
    expect(await onlyEvent()).toMatchObject({
      eventName: 'DisableKey',
      requestParameters: { name: 'alias/a' },
      resources: [{ ARN: expect.stringContaining(created) as string }],
    })
  })

  test('that is refused is recorded with the key that was meant', async () => {
    await get(`keys/${keyId}/disable`, { method: 'POST', token: denied })
    expect(await onlyEvent()).toMatchObject({
      eventName: 'DisableKey',
      errorCode: 'ACCESS_DENIED',
      resources: [{ ARN: keyArn }],
      additionalEventData: { decidedBy: 'token' },
    })
    await get('keys/alias%2Fnone')
    expect(await onlyEvent()).toMatchObject({
      eventName: 'DescribeKey',
      errorCode: 'KMS_KEY_NOT_FOUND',
      requestParameters: { name: 'alias/none' },
    })
    await get('tokens', { token: 'kf_none' })
    expect(await onlyEvent()).toMatchObject({
      eventName: 'ListTokens',
      errorCode: 'UNAUTHENTICATED',
    })
  })

  test('that a statement denies names the statement', async () => {
    const { arn } = await service.engine.kms.createKey({
      policy: JSON.stringify({
        Version: '2012-10-17',
        Statement: [
          { Effect: 'Allow', Principal: { AWS: '*' }, Action: 'kms:*', Resource: '*' },
          {
            Sid: 'NeverDisabled',
            Effect: 'Deny',
            Principal: { AWS: '*' },
            Action: 'kms:DisableKey',
            Resource: '*',
          },
        ],
      }),
    })
    await get(`keys/${encodeURIComponent(arn)}/disable`, { method: 'POST' })
    expect(await onlyEvent()).toMatchObject({
      errorCode: 'ACCESS_DENIED',
      additionalEventData: { decidedBy: 'key-policy/NeverDisabled' },
    })
  })

  test('of every route leaves one record', async () => {
    const calls: readonly [string, string, string][] = [
      ['GET', 'keys', 'ListKeys'],
      ['GET', `keys/${keyId}`, 'DescribeKey'],
      ['POST', `keys/${keyId}/enable`, 'EnableKey'],
      ['POST', `keys/${keyId}/rotate`, 'RotateKeyOnDemand'],
      ['GET', 'aliases', 'ListAliases'],
      ['DELETE', 'aliases/alias%2Fa', 'DeleteAlias'],
      ['GET', 'tokens', 'ListTokens'],
      ['DELETE', 'tokens/none', 'RevokeToken'],
      ['GET', 'limits', 'DescribeLimits'],
    ]
    for (const [method, path, name] of calls) {
      await get(path, { method })
      expect((await onlyEvent()).eventName).toBe(name)
    }
    await service.call('tokens', { name: 'x', actions: ['kms:Encrypt'], keys: ['*'] })
    expect(await onlyEvent()).toMatchObject({
      eventName: 'CreateToken',
      requestParameters: { name: 'x', actions: 'kms:Encrypt', keys: '*' },
    })
    await service.call('aliases', { alias: 'alias/b', key: keyId })
    expect(await onlyEvent()).toMatchObject({
      eventName: 'CreateAlias',
      resources: [{ ARN: keyArn }],
    })
  })
})

describe('a WebSocket', () => {
  test('leaves a record for each frame, refused ones too', async () => {
    await newEvents()
    const socket = new WebSocket(`${service.url.replace('http', 'ws')}/v1/ws`, {
      headers: { authorization: `Bearer ${service.token}` },
    })
    await new Promise((resolve) => socket.once('open', resolve))
    const frames: [number, Buffer][] = [
      [1, pack({ key: keyId, plaintexts: rows })],
      [1, pack({ key: 'alias/none', plaintexts: rows })],
      [99, pack({})],
    ]
    const answers = new Promise<number[]>((resolve) => {
      const kinds: number[] = []
      socket.on('message', (bytes: Buffer) => {
        if (kinds.push(bytes.readUInt8(4)) === frames.length) resolve(kinds)
      })
    })
    for (const [i, [kind, body]] of frames.entries()) {
      const head = Buffer.alloc(5)
      head.writeUInt32BE(i)
      head.writeUInt8(kind, 4)
      socket.send(Buffer.concat([head, body]))
    }
    await answers
    socket.close()
    const events = await newEvents()
    const shown = events.map(({ eventName, errorCode }) => [eventName, errorCode])
    expect(shown).toHaveLength(3)
    expect(shown).toEqual(
      expect.arrayContaining([
        ['Encrypt', undefined],
        ['Encrypt', 'KMS_KEY_NOT_FOUND'],
        ['Unknown', 'REQUEST_MALFORMED'],
      ]),
    )
    expect(events.every(({ sourceIPAddress }) => sourceIPAddress === '127.0.0.1')).toBe(true)
  })
})

/** "CloudTrail record contents" and "CloudTrail userIdentity element" of the AWS CloudTrail user guide, 1.11. */
const CLOUDTRAIL_NAMES = new Set(
  `eventTime eventVersion userIdentity eventSource eventName awsRegion sourceIPAddress userAgent errorCode
  errorMessage requestParameters responseElements additionalEventData requestID eventID eventType apiVersion
  managementEvent readOnly resources recipientAccountId serviceEventDetails sharedEventID vpcEndpointId
  vpcEndpointAccountId eventCategory addendum sessionCredentialFromConsole eventContext edgeDeviceDetails
  tlsDetails`.split(/\s+/),
)
const IDENTITY_NAMES = new Set(
  `type userName principalId arn accountId accessKeyId sessionContext invokedBy sessionIssuer
  webIdFederationData onBehalfOf credentialId identityProvider inScopeOf`.split(/\s+/),
)
const OUR_NAMES = ['group', 'sequence', 'previousHash', 'hash']

describe('the files', () => {
  test('have the names of CloudTrail’s records, and four of ours', () => {
    const events = readEvents(auditDirectory())
    expect(events.length).toBeGreaterThan(50)
    for (const event of events) {
      const ours = Object.keys(event).filter((name) => !CLOUDTRAIL_NAMES.has(name))
      expect(ours).toEqual(OUR_NAMES)
      for (const name of ['eventVersion', 'eventTime', 'eventSource', 'eventName', 'awsRegion']) {
        expect(typeof event[name]).toBe('string')
      }
      const identity = Object.keys(event['userIdentity'] as object)
      expect(identity.filter((name) => !IDENTITY_NAMES.has(name))).toEqual([])
      for (const resource of (event['resources'] ?? []) as object[]) {
        expect(Object.keys(resource)).toEqual(['ARN', 'accountId', 'type'])
      }
    }
  })

  test('hold no plaintext, ciphertext, token or key', async () => {
    const secret = Buffer.from('the plaintext that nobody may see')
    const sealed = await service.call('encrypt', {
      key: keyId,
      plaintexts: [secret],
      form: 'detached',
    })
    await service.call('decrypt', {
      ciphertexts: sealed.ciphertexts,
      keyEntries: [sealed.keyEntry],
    })
    const { dataKeys } = await service.call('data-keys', { key: keyId, count: 1, plaintext: true })
    const created = await service.call('tokens', {
      name: 'y',
      actions: ['kms:Encrypt'],
      keys: ['*'],
    })
    const { token } = created as unknown as { readonly token: string }
    const tokenSecret = token.slice(-43)
    await get('keys', { token: `kf_${'0'.repeat(18)}_${tokenSecret}` })
    await service.engine.audit.flush()
    const needles = [
      secret,
      sealed.ciphertexts[0],
      sealed.keyEntry,
      dataKeys[0]?.plaintext,
      dataKeys[0]?.wrappedKey,
      Buffer.from(tokenSecret),
      Buffer.from(service.token.slice(-43)),
    ].map((bytes) => Buffer.from(bytes as Uint8Array))
    for (const file of filesOf(auditDirectory())) {
      const bytes = readFileSync(file)
      expect(bytes.includes('GenerateDataKey')).toBe(true)
      for (const needle of needles) {
        for (const spelling of [
          needle,
          needle.toString('base64').slice(0, 40),
          needle.toString('hex'),
        ]) {
          expect(bytes.includes(spelling)).toBe(false)
        }
      }
    }
  })
})

describe('/metrics', () => {
  test('counts records, groups and refusals', async () => {
    const response = await fetch(`${service.url}/metrics`, {
      headers: { authorization: `Bearer ${service.token}` },
    })
    const text = await response.text()
    await service.engine.audit.flush()
    const { auditRecords } = service.engine.counters()
    expect(auditRecords).toBe(readEvents(auditDirectory()).length)
    expect(text).toContain(`\nkeyfold_audit_records_total ${auditRecords}\n`)
    expect(text).toMatch(/\nkeyfold_audit_groups_total [1-9]/)
    expect(text).toContain('\nkeyfold_audit_refused_total 0\n')
    // As long as the disk takes: microseconds or minutes.
    const [, syncSeconds] = /\nkeyfold_audit_sync_seconds_total (\S+)\n/.exec(text) ?? []
    expect(Number(syncSeconds)).toBeGreaterThan(0)
  })
})

describe('a server whose audit disk is full', () => {
  async function withFullDisk(
    settings: SettingTexts,
    skip: (note: string) => never,
    run: (full: Service, makeRoom: () => void) => Promise<void>,
  ): Promise<void> {
    const disk = mountDisk(skip)
    const directory = join(disk, 'audit')
    const full = await startService({ settings: { ...settings, auditDirectory: directory } })
    try {
      await run(full, fillDisk(disk))
    } finally {
      await full.close()
    }
    expect([...verifyDirectory(directory)].map(({ defect, state }) => [state, defect])).toEqual([
      ['closed', undefined],
    ])
  }

  /** Until the room that was preallocated is used up. */
  async function encryptUntilRefused(full: Service, key: string): Promise<Answer> {
    for (;;) {
      const context = { filler: 'x'.repeat(8_000) }
      const answer = await full.call('encrypt', { key, context, plaintexts: rows })
      if (answer.code !== undefined) return answer
    }
  }

  test('answers AUDIT_UNAVAILABLE and no ciphertext in strict mode, and does no change', async ({
    skip,
  }) => {
    await withFullDisk({ audit: 'strict' }, skip, async (full, makeRoom) => {
      const key = await full.createKey()
      expect(await encryptUntilRefused(full, key)).toEqual({
        code: 'AUDIT_UNAVAILABLE',
        message: expect.any(String) as string,
        requestId: expect.any(String) as string,
      })
      expect((await full.call('keys', {})).code).toBe('AUDIT_UNAVAILABLE')
      expect((await fetch(`${full.url}/readyz`)).status).toBe(503)
      const { items } = await full.engine.kms.listKeys()
      expect(items).toHaveLength(1)
      makeRoom()
      while ((await full.call('keys', {})).code !== undefined) {
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
      const { ciphertexts } = await full.call('encrypt', { key, plaintexts: rows })
      expect(ciphertexts).toHaveLength(2)
    })
  })

  test('can be locked all the same', async ({ skip }) => {
    await withFullDisk({ audit: 'strict' }, skip, async (full, makeRoom) => {
      await encryptUntilRefused(full, await full.createKey())
      expect((await full.call('lock', {})).code).toBe('AUDIT_UNAVAILABLE')
      expect(full.engine.locked).toBe(true)
      makeRoom()
    })
  })
})

describe('a server without an audit log', () => {
  test('writes none, and answers as ever', async () => {
    const quiet = await startService({ settings: { audit: 'off' } })
    try {
      const key = await quiet.createKey()
      const { ciphertexts } = await quiet.call('encrypt', { key, plaintexts: rows })
      const { plaintexts } = await quiet.call('decrypt', { ciphertexts })
      expect(plaintexts.map((bytes) => Buffer.from(bytes as Uint8Array))).toEqual(rows)
      expect(quiet.engine.counters()).toMatchObject({ auditRecords: 0 })
      expect(() => filesOf(auditDirectory(quiet))).toThrow('ENOENT')
    } finally {
      await quiet.close()
    }
  })
})
