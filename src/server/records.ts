/**
 * From a request to its record. A record is begun when the request comes, filled with what becomes known of it, and
 * taken by the audit log before anyone is told how the request ended: an answer whose record is not taken is thrown
 * away. Every door calls `recorded` around its operation; with the audit log off there is no record, and nothing of this runs.
 */
import type { AuditEvent, AuditLog } from '../audit/audit-log.ts'
import type { BatchResult, MaterialUse } from '../envelope/batch.ts'
import { nameOfKey } from '../envelope/key-entries.ts'
import type { MaybePromise } from '../envelope/parts.ts'
import { KeyfoldError } from '../errors.ts'
import { decodePackedHeader } from '../format/packed-batch.ts'
import type { OperationName } from '../format/requests.ts'
import type { Value } from '../format/msgpack.ts'
import { deniedBy } from '../kms/authorizer.ts'
import type { Principal, KmsKeyRegistry } from '../kms/kms-key.ts'
import { AUDIT_PARAMETER_CHARACTERS_MAX, AUDIT_PARAMETERS_MAX } from '../limits.ts'

/** AWS KMS's names where it has one. */
export const OPERATION_NAMES: Readonly<Record<OperationName | 'batch', string>> = {
  encrypt: 'Encrypt',
  decrypt: 'Decrypt',
  're-encrypt': 'ReEncrypt',
  'data-keys': 'GenerateDataKey',
  'message-keys': 'ReleaseMessageKey',
  batch: 'Batch',
}

interface PackedBytes {
  readonly body: { readonly bytes: Uint8Array }
  readonly offset: number
  readonly end: number
}

/** The event that a request becomes. */
export class RequestRecord implements AuditEvent {
  timeMs = 0
  principalArn = ''
  credentialId = ''
  keyArns: readonly string[] = NONE
  encryptionContext: Uint8Array | undefined = undefined
  messages = 0
  bytes = 0
  failed = 0
  outcome = 'Success'
  decidedBy: string | undefined = undefined
  parameters: AuditEvent['parameters'] = undefined
  operation: string
  readonly requestId: string
  readonly sourceAddress: string | undefined
  readonly door: AuditEvent['door']
  /** Its operations have records of their own: there is none of the whole, unless it fails as a whole. */
  inParts = false
  /** As the caller named the key, and a packed batch that names it: read only where the operation fails. */
  keyReference: string | undefined = undefined
  packed: PackedBytes | undefined = undefined

  constructor(
    operation: string,
    origin: Pick<AuditEvent, 'requestId' | 'sourceAddress' | 'door'>,
    principal?: Principal,
  ) {
    this.operation = operation
    this.requestId = origin.requestId
    this.sourceAddress = origin.sourceAddress
    this.door = origin.door
    if (principal !== undefined) this.by(principal)
  }

  by({ arn, tokenId }: Principal): void {
    this.principalArn = arn
    this.credentialId = tokenId
  }

  asked(encryptionContext: Uint8Array, messages: number, keyReference?: string): void {
    this.encryptionContext = encryptionContext
    this.messages = messages
    this.keyReference = keyReference
  }

  /** A KMS key that the request is about. */
  about(keyArn: string): void {
    if (!this.keyArns.includes(keyArn)) this.keyArns = [...this.keyArns, keyArn]
  }

  done({ uses, refusedKeys, messages, plaintextBytes, errors }: BatchResult): void {
    this.packed = undefined
    this.used(uses, refusedKeys)
    this.messages = messages
    this.bytes = plaintextBytes
    this.failed = errors.length
  }

  used(uses: readonly MaterialUse[], refusedKeys: readonly string[]): void {
    const [use] = uses
    this.keyArns =
      uses.length === 1 && refusedKeys.length === 0
        ? [(use as MaterialUse).kmsKey.arn]
        : [...new Set([...uses.map(({ kmsKey }) => kmsKey.arn), ...refusedKeys])]
  }

  /** Of an operation that failed as a whole: which key was meant is worked out now. */
  refused(error: unknown, registry: KmsKeyRegistry): void {
    this.outcome = error instanceof KeyfoldError ? error.code : 'INTERNAL'
    this.decidedBy = deniedBy(error)
    this.failed = this.messages
    if (this.keyReference !== undefined) {
      this.parameters = { keyId: this.keyReference.slice(0, AUDIT_PARAMETER_CHARACTERS_MAX) }
    }
    if (this.keyArns === NONE) this.keyArns = keysMeant(this, registry)
    // The record may wait for the disk, and a request's bytes do not wait with it.
    this.packed = undefined
  }
}

const NONE: readonly string[] = []

function keysMeant(
  { keyReference, packed }: RequestRecord,
  registry: KmsKeyRegistry,
): readonly string[] {
  try {
    const named = keyReference === undefined ? undefined : registry.peek(keyReference)?.arn
    const entry =
      packed && decodePackedHeader(packed.body.bytes, packed.offset, packed.end).keyEntry
    const entered = entry && nameOfKey({ registry }, entry)
    return [named, entered].filter((arn) => arn !== undefined)
  } catch {
    // It is no name of a key, or no packed batch.
    return NONE
  }
}

export interface Recording {
  readonly audit: AuditLog
  readonly kms: { readonly registry: KmsKeyRegistry }
}

/**
 * Runs an operation and records how it ended; then, and not before, its answer or error is handed on. Errors:
 * AUDIT_UNAVAILABLE in place of either.
 */
export function recorded<T extends { release(): void }>(
  { audit, kms }: Recording,
  record: RequestRecord | undefined,
  run: () => MaybePromise<T>,
): MaybePromise<T> {
  if (record === undefined) return run()
  const succeed = (answer: T): MaybePromise<T> => {
    if (record.inParts) return answer
    const discard = (error: unknown): never => {
      answer.release()
      throw error
    }
    let durable: Promise<void> | undefined
    try {
      record.timeMs = Date.now()
      durable = audit.record(record)
    } catch (error) {
      return discard(error)
    }
    return durable === undefined ? answer : durable.then(() => answer, discard)
  }
  const fail = (error: unknown): MaybePromise<never> => {
    record.refused(error, kms.registry)
    record.timeMs = Date.now()
    const durable = audit.record(record)
    if (durable === undefined) throw error
    return durable.then(() => {
      throw error
    })
  }
  let answer: MaybePromise<T>
  try {
    answer = run()
  } catch (error) {
    return fail(error)
  }
  return answer instanceof Promise ? answer.then(succeed, fail) : succeed(answer)
}

/**
 * The same for management, whose changes cannot be taken back: nothing is begun while the log takes no record, and
 * nobody is told before the record is on the disk. `always`: begun all the same.
 */
export async function recordedDurably<T>(
  { audit, kms }: Recording,
  record: RequestRecord | undefined,
  always: boolean,
  run: () => Promise<T>,
): Promise<T> {
  if (record === undefined) return run()
  if (!always) audit.assertAvailable()
  let outcome: { readonly answer: T } | { readonly error: unknown }
  try {
    outcome = { answer: await run() }
  } catch (error) {
    record.refused(error, kms.registry)
    outcome = { error }
  }
  record.timeMs = Date.now()
  await audit.recordDurably(record)
  if ('error' in outcome) throw outcome.error
  return outcome.answer
}

/** Fields of management calls that say what was asked for. A field that is not among them is not recorded. */
const RECORDED_FIELDS: ReadonlySet<string> = new Set([
  'alias',
  'key',
  'limit',
  'marker',
  'name',
  'principal',
  'actions',
  'keys',
  'expiresInSeconds',
  'xksPrefix',
  'kind',
  'keyStore',
  'externalKeyId',
  'keepsOpenKeys',
])

/** Short values as they are, lists in one line; no bytes, and no value of any length. */
export function parametersOf(fields: Iterable<readonly [string, Value]>): AuditEvent['parameters'] {
  const pairs: [string, string | number | boolean][] = []
  for (const [name, value] of fields) {
    if (!RECORDED_FIELDS.has(name) || pairs.length >= AUDIT_PARAMETERS_MAX) continue
    if (typeof value === 'number' || typeof value === 'boolean') pairs.push([name, value])
    const text = Array.isArray(value)
      ? value.filter((element) => typeof element === 'string').join(',')
      : value
    if (typeof text === 'string') pairs.push([name, text.slice(0, AUDIT_PARAMETER_CHARACTERS_MAX)])
  }
  return pairs.length === 0 ? undefined : Object.fromEntries(pairs)
}
