/** Changes of one node, one after the other, by a clock of the tests' own. */
import { expect, test } from 'vitest'

import { Turns } from '../../dist/catalog/turns.js'
import { KeyfoldError } from '../../dist/errors.js'

let nowMs = 0
const turns = (): Turns => new Turns(() => nowMs)
const passing = (ms: number) => async (): Promise<number> => (nowMs += ms)
const outcomesOf = async (taken: readonly Promise<unknown>[]): Promise<readonly string[]> =>
  (await Promise.allSettled(taken)).map((outcome) =>
    outcome.status === 'fulfilled' ? 'made' : (outcome.reason as Error).message,
  )

test('a change waits for as long as those before it are made, however slow they are', async () => {
  const line = turns()
  const taken = Array.from({ length: 300 }, () => line.take(passing(9_000)))
  expect(new Set(await outcomesOf(taken))).toEqual(new Set(['made']))
})

test('a change that is refused for its own sake is no reason to give up', async () => {
  const line = turns()
  const refused = async (): Promise<never> => {
    nowMs += 9_000
    throw new KeyfoldError('KMS_KEY_NOT_FOUND')
  }
  const outcomes = await outcomesOf([
    ...Array.from({ length: 5 }, () => line.take(refused)),
    line.take(passing(1)),
  ])
  expect(outcomes.at(-1)).toBe('made')
})

test('while the database is away nobody waits for more than its bound behind others', async () => {
  const line = turns()
  let tried = 0
  const away = async (): Promise<never> => {
    tried++
    nowMs += 11_000
    throw new KeyfoldError('CATALOG_UNAVAILABLE')
  }
  const outcomes = await outcomesOf(Array.from({ length: 50 }, () => line.take(away)))
  expect(tried).toBe(1)
  expect(outcomes.at(-1)).toContain('no change before this one was made')
  // Who comes later tries.
  expect(await outcomesOf([line.take(passing(1))])).toEqual(['made'])
})

test('more than a thousand that wait are told at once', async () => {
  const line = turns()
  const taken = Array.from({ length: 1_100 }, () => line.take(passing(1)))
  const outcomes = await outcomesOf(taken)
  expect(outcomes.filter((outcome) => outcome === 'made').length).toBe(1_000)
  expect(outcomes.at(-1)).toContain('changes wait already')
})
