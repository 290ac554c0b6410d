/** Events on their way to the disk: whatever is in them arrives, and nothing else. */
import { randomInt } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import { GroupBuilder, type AuditEvent } from '../../dist/audit/event.js'
import { chooseEncodeEvents } from '../../dist/audit/native-lines.js'
import { encodeEvents } from '../../dist/audit/record.js'
import { encodeEncryptionContext } from '../../dist/format/encryption-context.js'
import { KEY_ARN, makeEvent, newDirectory, newWriter, readEvents, verifyOne } from './log.ts'

function written(events: readonly AuditEvent[], native: boolean): ReturnType<typeof readEvents> {
  const directory = newDirectory()
  const writer = newWriter(directory, { native })
  writer.append(GroupBuilder.of(events).build())
  writer.close()
  expect(verifyOne(directory)).toMatchObject({ records: events.length, defect: undefined })
  return readEvents(directory)
}

const TEXTS = [
  '',
  'plain',
  'two\nlines',
  '"quoted"\\',
  '\u0000\u001b',
  'é ü 漢字 🔑',
  '\u2028',
  '\ud800',
  '</script>',
]
const any = <T>(values: readonly T[]): T => values[randomInt(values.length)] as T

/** Leap days, the days around them, and the ends of what four digits of a year can say. */
const TIMES = [
  '1970-01-01T00:00:00.000Z',
  '1999-12-31T23:59:59.999Z',
  '2000-02-29T00:00:00.000Z',
  '2026-11-25T15:21:07.042Z',
  '2028-02-29T12:00:00.001Z',
  '2028-03-01T00:00:00.000Z',
  '2100-02-28T23:59:59.999Z',
  '2100-03-01T00:00:00.000Z',
  '9999-12-31T23:59:59.999Z',
]

const hasAddon = chooseEncodeEvents(true) !== encodeEvents
const WAYS = [
  ['in JavaScript', false, (i: number) => `${i} ${any(TEXTS)}`],
  ['by the addon', true, (i: number) => `${i.toString(36)} -_[]{}~!'`],
  ['by the addon, but for their ids', true, (i: number) => `${i} ${any(TEXTS)}`],
] as const

const isWanted = hasAddon || process.env['CI'] !== undefined
if (!isWanted) test.skip('by the addon (it is not built: npm rebuild)', () => undefined)

describe.each(WAYS.filter(([, native]) => isWanted || !native))(
  'events of a group, %s',
  (_, native, idOf) => {
    if (native) test('is what makes them', () => expect(hasAddon).toBe(true))

    test('arrive with their own fields, however many callers are mixed and whatever texts they hold', () => {
      const contexts = [
        undefined,
        encodeEncryptionContext([]),
        encodeEncryptionContext([['table', 'orders']]),
        encodeEncryptionContext([
          ['__proto__', 'a'],
          ['constructor', '🔑\n'],
        ]),
      ]
      const events = Array.from({ length: 2_000 }, (_, i) =>
        makeEvent({
          requestId: idOf(i),
          timeMs: Date.parse(any(TIMES)),
          credentialId: `credential-${randomInt(30)}`,
          operation: any(TEXTS),
          sourceAddress: any(['192.0.2.1', '2001:db8::1', undefined]),
          keyArns: any([[], [KEY_ARN], [KEY_ARN, `${KEY_ARN}2`]]),
          encryptionContext: any(contexts),
          messages: randomInt(2 ** 40),
          bytes: randomInt(2 ** 40),
          failed: randomInt(10),
          outcome: any(['Success', 'ACCESS_DENIED']),
          decidedBy: any([undefined, any(TEXTS)]),
          parameters: any([undefined, { keyId: any(TEXTS), limit: 3, dryRun: true }]),
        }),
      )
      const arrived = written(events, native)
      for (const [i, event] of events.entries()) {
        const line = arrived[i] as Readonly<Record<string, unknown>>
        const { door, messages, bytes, failed, decidedBy } = event
        const context = event.encryptionContext === contexts[2] ? { table: 'orders' } : undefined
        const parameters = line['requestParameters'] as Record<string, unknown> | undefined
        expect(line['requestID']).toBe(event.requestId)
        expect(line['eventName']).toBe(event.operation)
        expect(line['eventTime']).toBe(new Date(event.timeMs).toISOString())
        expect(line['sourceIPAddress']).toBe(event.sourceAddress)
        expect(line['errorCode']).toBe(event.outcome === 'Success' ? undefined : event.outcome)
        expect(line['userIdentity']).toMatchObject({ credentialId: event.credentialId })
        expect(line['additionalEventData']).toEqual({
          ...{ door, messages, bytes, failed },
          ...(decidedBy === undefined ? {} : { decidedBy }),
        })
        const resources = (line['resources'] ?? []) as { readonly ARN: string }[]
        expect(resources.map(({ ARN }) => ARN)).toEqual(event.keyArns)
        expect(parameters?.['keyId']).toBe(event.parameters?.['keyId'])
        if (context !== undefined) expect(parameters?.['encryptionContext']).toEqual(context)
        if (event.encryptionContext === contexts[3]) {
          const pairs = Object.entries(parameters?.['encryptionContext'] as object)
          expect(pairs).toEqual([
            ['__proto__', 'a'],
            ['constructor', '🔑\n'],
          ])
        }
      }
    })

    test('of the longest context and the most keys are read back', () => {
      const filler = '\u0001'.repeat(8_192 - 2 - 4 - 1)
      const [line] = written(
        [
          makeEvent({
            encryptionContext: encodeEncryptionContext([['k', filler]]),
            keyArns: Array.from({ length: 256 }, (_, i) => `${KEY_ARN}${i}`),
          }),
        ],
        native,
      )
      expect(line?.['requestParameters']).toEqual({ encryptionContext: { k: filler } })
      expect(line?.['resources']).toHaveLength(256)
    })

    test('that are longer than any memory for lines go out in parts', () => {
      const encryptionContext = encodeEncryptionContext([['k', '\u0001'.repeat(8_000)]])
      const events = Array.from({ length: 200 }, (_, i) =>
        makeEvent({ requestId: idOf(i), encryptionContext }),
      )
      const ids = written(events, native).map((line) => line['requestID'])
      expect(ids).toEqual(events.map(({ requestId }) => requestId))
    })

    test('name an access key as CloudTrail does, and a caller who is not known not at all', () => {
      const role = 'arn:aws:sts::111122223333:assumed-role/loader/session'
      const [signed, unknown] = written(
        [
          makeEvent({ door: 'kms', principalArn: role, credentialId: 'AKIAIOSFODNN7EXAMPLE' }),
          makeEvent({ principalArn: '', credentialId: '' }),
        ],
        native,
      )
      expect(signed?.['userIdentity']).toEqual({
        type: 'AssumedRole',
        arn: role,
        accountId: '111122223333',
        accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
      })
      expect(unknown?.['userIdentity']).toEqual({ type: 'Unknown' })
    })
  },
)
