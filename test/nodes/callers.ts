/** Callers of servers that run in processes of their own, over the front door of each. */
import { setImmediate as turn } from 'node:timers/promises'

import type { Server } from '../cli/command.ts'

export interface Answer {
  readonly code?: string
  readonly keyId: string
  readonly ciphertexts?: readonly string[]
  readonly plaintexts?: readonly (string | null)[]
  readonly errors?: readonly (readonly [number, string])[]
}

export type Callers = ReturnType<typeof callersWith>

export function callersWith(token: string) {
  async function call(
    node: Server,
    path: string,
    { method = 'POST', fields }: { readonly method?: string; readonly fields?: unknown } = {},
  ): Promise<Answer> {
    const response = await fetch(`${node.ready.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      ...(fields === undefined ? {} : { body: JSON.stringify(fields) }),
    })
    return (await response.json()) as Answer
  }
  /** Sealed, or the code of the error. */
  const tryEncrypt = async (node: Server, key: string): Promise<string> => {
    const fields = { key, context: {}, plaintexts: [Buffer.from('text').toString('base64')] }
    const { code, ciphertexts } = await call(node, '/v1/encrypt', { fields })
    return code ?? (ciphertexts?.length === 1 ? 'sealed' : 'nothing')
  }
  const tryChange = (node: Server, key: string, to: 'enable' | 'disable'): Promise<Answer> =>
    call(node, `/v1/keys/${encodeURIComponent(key)}/${to}`, { fields: {} })

  /** A node that gets no turn on this machine for a second has no lease and refuses: those below ask again then. */
  async function whenHeld<T>(ask: () => Promise<T>, codeOf: (answer: T) => unknown): Promise<T> {
    for (;;) {
      const answer = await ask()
      if (codeOf(answer) !== 'CATALOG_UNAVAILABLE') return answer
      await turn()
    }
  }
  const encrypt = (node: Server, key: string): Promise<string> =>
    whenHeld(
      () => tryEncrypt(node, key),
      (outcome) => outcome,
    )
  const createKey = async (node: Server): Promise<string> => {
    const answer = await whenHeld(
      () => call(node, '/v1/keys', { fields: {} }),
      ({ code }) => code,
    )
    return answer.keyId
  }
  const change = (...given: Parameters<typeof tryChange>): Promise<Answer> =>
    whenHeld(
      () => tryChange(...given),
      ({ code }) => code,
    )

  /** Callers of these nodes who go on until they are told to stop; each outcome with the phase in which it was asked. */
  function load(targets: readonly Server[], key: string) {
    const asked: { readonly phase: number; outcome: string }[] = []
    let phase = 0
    let stopped = false
    const callers = targets.flatMap((node) =>
      Array.from({ length: 3 }, async () => {
        while (!stopped) {
          const one = { phase, outcome: 'under way' }
          asked.push(one)
          one.outcome = await tryEncrypt(node, key).catch((error: unknown) => String(error))
          await turn()
        }
      }),
    )
    return {
      /** Requests from now on are counted apart; answers which number they have. */
      nextPhase: (): number => ++phase,
      /** When there are so many of this phase, of this outcome where one is named. */
      until: async (wanted: number, least: number, outcome?: string): Promise<void> => {
        const isOne = (one: (typeof asked)[number]): boolean =>
          outcome === undefined ? one.outcome !== 'under way' : one.outcome === outcome
        const done = (): number => asked.filter((one) => one.phase === wanted && isOne(one)).length
        while (done() < least) await turn()
      },
      /** When none of this phase is under way any more. */
      settled: async (wanted: number): Promise<void> => {
        const isOpen = (one: (typeof asked)[number]): boolean =>
          one.phase === wanted && one.outcome === 'under way'
        while (asked.some(isOpen)) await turn()
      },
      outcomes: (wanted: number): Record<string, number> => {
        const counts: Record<string, number> = {}
        for (const one of asked) {
          if (one.phase === wanted) counts[one.outcome] = (counts[one.outcome] ?? 0) + 1
        }
        return counts
      },
      stop: async (): Promise<void> => {
        stopped = true
        await Promise.all(callers)
      },
    }
  }

  return { call, encrypt, tryEncrypt, createKey, change, tryChange, load }
}
