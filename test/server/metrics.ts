/** Reads /metrics as the Prometheus text format 0.0.4 describes it, and refuses what it does not. */
import { expect } from 'vitest'

import type { Service } from '../service.ts'
import { bearer } from './caller.ts'

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*'
const LABEL = '[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\\\n]|\\\\[\\\\"n])*"'
const SAMPLE = new RegExp(`^(${NAME})(\\{${LABEL}(?:,${LABEL})*\\})? (-?[0-9.e+-]+|NaN|[+-]Inf)$`)

export interface Metrics {
  readonly types: ReadonlyMap<string, string>
  /** By name and labels, as they are written. */
  readonly samples: ReadonlyMap<string, number>
}

export async function readMetrics(service: Service): Promise<Metrics> {
  const response = await fetch(`${service.url}/metrics`, { headers: bearer(service) })
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  return parse(await response.text())
}

/** A metric of keyfold's without labels. */
export async function metric(service: Service, name: string): Promise<number> {
  const value = (await readMetrics(service)).samples.get(`keyfold_${name}`)
  if (value === undefined) throw new Error(`there is no metric ${name}`)
  return value
}

function parse(text: string): Metrics {
  const types = new Map<string, string>()
  const samples = new Map<string, number>()
  expect(text.endsWith('\n')).toBe(true)
  for (const line of text.split('\n')) {
    if (line === '') continue
    const type = /^# TYPE (\S+) (counter|gauge|histogram|summary|untyped)$/.exec(line)
    if (type !== null) types.set(type[1] as string, type[2] as string)
    if (line.startsWith('#')) {
      expect(line).toMatch(/^# (TYPE|HELP) /)
      continue
    }
    const sample = SAMPLE.exec(line)
    expect(sample, line).not.toBeNull()
    const [, name = '', labels = '', value] = sample as unknown as readonly string[]
    expect(types.has(name), `${name} has a type before its samples`).toBe(true)
    expect(samples.has(name + labels), `${name}${labels} stands there once`).toBe(false)
    samples.set(name + labels, Number(value))
  }
  return { types, samples }
}
