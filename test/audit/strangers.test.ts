/** Callers who are nobody, and would fill the disk with records of how they were refused. */
import { join } from 'node:path'
import { expect, test } from 'vitest'

import { Strangers } from '../../dist/audit/strangers.js'
import { AUDIT_STRANGERS_BURST, AUDIT_STRANGERS_PER_SECOND } from '../../dist/limits.js'
import { startService } from '../service.ts'
import { readEvents } from './log.ts'

const EVENT = {
  timeMs: Date.UTC(2026, 0, 1),
  requestId: 'r',
  principalArn: '',
  credentialId: '',
  sourceAddress: '192.0.2.1',
  door: 'v1',
  operation: 'Encrypt',
  keyArns: [],
  encryptionContext: undefined,
  messages: 0,
  bytes: 0,
  failed: 0,
  outcome: 'UNAUTHENTICATED',
  decidedBy: undefined,
  parameters: undefined,
} as const

test('are recorded up to a burst and then at a rate, and the next record tells how many were not', () => {
  const strangers = new Strangers()
  const admitted = (count: number, event: Parameters<Strangers['admit']>[0]): number => {
    const events = Array.from({ length: count }, () => strangers.admit(event))
    return events.filter((one) => one !== undefined).length
  }
  expect(admitted(AUDIT_STRANGERS_BURST + 7, EVENT)).toBe(AUDIT_STRANGERS_BURST)
  // Somebody, the server itself, and what succeeded without credentials.
  for (const other of [
    { ...EVENT, principalArn: 'arn:aws:iam::000000000000:root', outcome: 'ACCESS_DENIED' },
    { ...EVENT, door: 'server' as const, outcome: 'KEY_STORE_UNREACHABLE' },
    { ...EVENT, outcome: 'Success' },
  ]) {
    expect(strangers.admit(other)).toBe(other)
  }
  const later = { ...EVENT, timeMs: EVENT.timeMs + 1000 }
  expect(strangers.admit(later)?.parameters).toEqual({ unrecordedBefore: 7 })
  expect(strangers.admit(later)).toBe(later)
  expect(admitted(100, later)).toBe(AUDIT_STRANGERS_PER_SECOND - 2)
  // A clock that was set back gives nothing.
  expect(admitted(100, EVENT)).toBe(0)
})

test('by the thousand leave the log to those who are somebody', async () => {
  const service = await startService()
  try {
    const sent = 2 * AUDIT_STRANGERS_BURST
    const ask = async (token: string): Promise<number> => {
      const headers = { authorization: `Bearer ${token}` }
      const response = await fetch(`${service.url}/v1/encrypt`, { method: 'POST', headers })
      await response.arrayBuffer()
      return response.status
    }
    for (let i = 0; i < sent; i += 50) {
      const statuses = await Promise.all(Array.from({ length: 50 }, () => ask('kf_none')))
      expect(new Set(statuses)).toEqual(new Set([401]))
    }
    expect(await ask(service.token)).toBe(400)
    await service.engine.audit.flush()
    const events = readEvents(join(service.dataDirectory, 'audit')) as readonly {
      readonly errorCode?: string
      readonly userIdentity: { readonly type: string }
    }[]
    const strangers = events.filter(({ userIdentity }) => userIdentity.type === 'Unknown').length
    const { auditStrangersUnrecorded } = service.engine.audit.counters
    expect(strangers + auditStrangersUnrecorded).toBe(sent)
    expect(strangers).toBeGreaterThanOrEqual(AUDIT_STRANGERS_BURST)
    expect(auditStrangersUnrecorded).toBeGreaterThan(0)
    expect(events.at(-1)).toMatchObject({ userIdentity: { type: 'Root' } })
  } finally {
    await service.close()
  }
})
