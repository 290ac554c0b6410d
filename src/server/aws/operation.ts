/**
 * An operation of AWS KMS as a row of a table: its name, its input and what it does. What operations on a key share
 * (resolving, permission, state, DryRun) is done here, in one order for all of them.
 */
import { KeyfoldError } from '../../errors.ts'
import { assertOperable, type KeyOperation } from '../../kms/key-states.ts'
import type { Action, KmsKey, RequestAttributes } from '../../kms/kms-key.ts'
import type { Call } from './call.ts'
import { structure, type Input, type Members } from './shapes.ts'

/** Answers are JSON: bytes as base64, times as seconds since 1970; undefined members are left out. */
export type OutputValue =
  | string
  | number
  | boolean
  | Uint8Array
  | readonly OutputValue[]
  | { readonly [name: string]: OutputValue | undefined }

export type Output = Readonly<Record<string, OutputValue | undefined>>

export interface Operation {
  readonly name: string
  /** `input`: parsed JSON, not looked at yet. */
  answer(call: Call, input: unknown): Promise<Output>
}

/** An operation that concerns no key, or finds its keys itself and asks `call` for each. */
export function free<M extends Members>(
  name: string,
  members: M,
  run: (call: Call, input: Input<M>) => Promise<Output>,
): Operation {
  const shape = structure(members)
  return { name, answer: async (call, input) => run(call, shape(input, '')) }
}

/** An operation on the key that KeyId names. */
export function keyed<M extends Members & { readonly KeyId: { readonly required: true } }>(
  name: KeyOperation,
  members: M,
  run: (call: Call, input: Input<M>, kmsKey: KmsKey) => Promise<Output>,
  options: {
    /** What policies and grants may read of the request. */
    readonly attributes?: (input: Input<M>) => RequestAttributes
    /** What can be refused without knowing the key: before permission is asked, as AWS KMS does. */
    readonly check?: (input: Input<M>) => void
    /** What the key does not allow, whatever its state: a dry run would tell. */
    readonly checkKey?: (input: Input<M>, kmsKey: KmsKey) => void
  } = {},
): Operation {
  const shape = structure(members)
  const action: Action = `kms:${name}`
  return {
    name,
    answer: async (call, given) => {
      const input = shape(given, '')
      options.check?.(input)
      const { KeyId, DryRun } = input as { readonly KeyId: string; readonly DryRun?: boolean }
      const kmsKey = await call.key(KeyId, action, options.attributes?.(input))
      assertOperable(name, kmsKey)
      options.checkKey?.(input, kmsKey)
      if (DryRun === true) throw new KeyfoldError('DRY_RUN')
      return run(call, input, kmsKey)
    },
  }
}

/** Milliseconds to what the wire has: seconds since 1970. */
export function seconds(milliseconds: number): number {
  return milliseconds / 1000
}
