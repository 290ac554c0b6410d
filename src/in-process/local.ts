/**
 * In-process mode on a data directory of this machine's: the whole engine with its catalog, root key and audit log, and
 * nobody in between. The catalog lets one process in at a time.
 */
import { randomUUID } from 'node:crypto'

import { openEngine, type Engine } from '../engine.ts'
import type { BatchResult } from '../envelope/batch.ts'
import { countUses } from '../envelope/uses.ts'
import { KeyfoldError } from '../errors.ts'
import type { Principal } from '../kms/kms-key.ts'
import { EnvelopeKeyfold, type InProcessKeyfold, type Operation } from './keyfold.ts'
import { configOf, type LocalOptions } from './settings.ts'

export async function openLocal(options: LocalOptions): Promise<InProcessKeyfold> {
  const config = configOf(options, { data: options.dataDirectory })
  const engine = await openEngine(config, { log: options.log ?? (() => undefined) })
  // Whoever can read the root key may do what the account may.
  const principal: Principal = {
    arn: `arn:aws:iam::${config.account}:root`,
    credential: 'token',
    tokenId: 'in-process',
    actions: ['*'],
    keys: ['*'],
    expiresAtMs: undefined,
  }
  return new EnvelopeKeyfold({
    crypto: engine.crypto,
    envelope: engine.envelope,
    slots: engine.slots,
    principal,
    recorded: (operation, run) => recorded(engine, principal, operation, run),
    counters: () => ({
      ...engine.counters(),
      serverCalls: 0,
      implementation: engine.crypto.implementation,
    }),
    close: () => engine.close(),
  })
}

/** As at a server: a record is taken before anyone is told how the operation ended. */
async function recorded(
  { audit, keyUses, config }: Engine,
  principal: Principal,
  operation: Operation,
  run: () => BatchResult | Promise<BatchResult>,
): Promise<BatchResult> {
  let result: BatchResult | undefined
  let failure: unknown
  try {
    result = await run()
    countUses(keyUses, result.uses, { bytes: result.plaintextBytes, operation: operation.name })
  } catch (error) {
    failure = error
  }
  try {
    if (config.audit.mode !== 'off')
      await audit.record(eventOf(principal, operation, result, failure))
  } catch (error) {
    result?.slot.release()
    throw error
  }
  if (result === undefined) throw failure
  return result
}

function eventOf(
  { arn, tokenId }: Principal,
  { name, context, messages }: Operation,
  result: BatchResult | undefined,
  failure: unknown,
): Parameters<Engine['audit']['record']>[0] {
  const arns = result?.uses.map(({ kmsKey }) => kmsKey.arn) ?? []
  return {
    timeMs: Date.now(),
    requestId: randomUUID(),
    principalArn: arn,
    credentialId: tokenId,
    sourceAddress: undefined,
    door: 'in-process',
    operation: name,
    keyArns: [...new Set([...arns, ...(result?.refusedKeys ?? [])])],
    encryptionContext: context.bytes,
    messages: result?.messages ?? messages,
    bytes: result?.plaintextBytes ?? 0,
    failed: result?.errors.length ?? messages,
    outcome:
      result !== undefined
        ? 'Success'
        : failure instanceof KeyfoldError
          ? failure.code
          : 'INTERNAL',
    decidedBy: undefined,
    parameters: undefined,
  }
}
