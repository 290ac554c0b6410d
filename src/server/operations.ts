/**
 * The operations of the batch API, between a request's bytes and an answer's: decode the head, run the envelope,
 * write the map around the result. HTTP, WebSocket and POST /v1/batch all come through here. What can be answered at
 * once is; everything else is a promise.
 */
import type { Crypto } from '../crypto/crypto.ts'
import type { CanonicalContext } from '../data-keys/lease.ts'
import type { BatchResult } from '../envelope/batch.ts'
import type { Envelope } from '../envelope/envelope.ts'
import type { MaybePromise } from '../envelope/parts.ts'
import { countUses } from '../envelope/uses.ts'
import { KeyfoldError } from '../errors.ts'
import { MsgpackWriter } from '../format/msgpack.ts'
import { FRAME_HEADER_BYTES } from '../format/frame.ts'
import {
  decodeBatchRequest,
  decodeDataKeysRequest,
  decodeDecryptRequest,
  decodeEncryptRequest,
  decodeMessageKeysRequest,
  decodeReEncryptRequest,
  type DecryptFields,
  type EncryptFields,
  type OperationName,
} from '../format/requests.ts'
import type { AuditLog } from '../audit/audit-log.ts'
import type { KmsKeyRegistry, Principal, RequestOrigin } from '../kms/kms-key.ts'
import type { KeyUses } from '../kms/key-uses.ts'
import type { SlotPool } from '../pool/slot.ts'
import {
  encodeDataKeys,
  encodeDecrypted,
  encodeEncrypted,
  encodeError,
  encodeMessageKeys,
  encodeReEncrypted,
  type Answer,
} from './answer.ts'
import type { Body } from './exchange.ts'
import { Heads } from './heads.ts'
import { OPERATION_NAMES, recorded, RequestRecord } from './records.ts'

interface OperationRequest {
  readonly principal: Principal
  readonly origin: RequestOrigin
  readonly body: Body
  /** Undefined where there is no audit log. */
  readonly record: RequestRecord | undefined
  /** Where the request's map lies in the body. */
  readonly offset: number
  readonly end: number
}

type KnownEncrypt = Omit<EncryptFields, 'context'> & { readonly context: CanonicalContext }
type KnownDecrypt = Omit<DecryptFields, 'context'> & { readonly context: CanonicalContext }

/** Those of /v1/data-keys are AES-256 keys. */
const DATA_KEY_BYTES = 32

export class Operations {
  readonly #envelope: Envelope
  readonly #slots: SlotPool
  readonly #crypto: Crypto
  readonly #engine: {
    readonly audit: AuditLog
    readonly kms: { readonly registry: KmsKeyRegistry }
    readonly keyUses: KeyUses
  }
  readonly #encryptHeads = new Heads<KnownEncrypt>('plaintexts')
  readonly #decryptHeads = new Heads<KnownDecrypt>('ciphertexts')

  constructor(engine: {
    readonly envelope: Envelope
    readonly slots: SlotPool
    readonly crypto: Crypto
    readonly audit: AuditLog
    readonly kms: { readonly registry: KmsKeyRegistry }
    readonly keyUses: KeyUses
  }) {
    this.#engine = engine
    this.#envelope = engine.envelope
    this.#slots = engine.slots
    this.#crypto = engine.crypto
  }

  /** Does not release the body: whoever calls does, when the answer is there. */
  run(op: OperationName, request: OperationRequest): MaybePromise<Answer> {
    switch (op) {
      case 'encrypt':
        return this.#encrypt(request)
      case 'decrypt':
        return this.#decrypt(request)
      case 're-encrypt':
        return this.#reEncrypt(request)
      case 'data-keys':
        return this.#dataKeys(request)
      case 'message-keys':
        return this.#messageKeys(request)
    }
  }

  /** Operations one after the other, so that a request holds one result at a time; failures stand in their place. */
  async runBatch(
    request: Pick<OperationRequest, 'principal' | 'origin' | 'body'>,
    requestId: string,
    whole: RequestRecord | undefined,
  ): Promise<Answer> {
    const { principal, body } = request
    body.keep()
    const operations = decodeBatchRequest(body.bytes)
    const answers: Answer[] = []
    try {
      for (const { op, offset, end } of operations) {
        try {
          const record = whole && new RequestRecord(OPERATION_NAMES[op], whole, principal)
          const run = (): MaybePromise<Answer> => this.run(op, { ...request, record, offset, end })
          answers.push(await recorded(this.#engine, record, run))
        } catch (error) {
          if (!(error instanceof KeyfoldError)) throw error
          answers.push(encodeError(error.code, error.message, requestId))
        }
      }
      const joined = this.#joinAnswers(answers)
      if (whole !== undefined) whole.inParts = true
      return joined
    } finally {
      for (const answer of answers) answer.release()
    }
  }

  #encrypt(request: OperationRequest): MaybePromise<Answer> {
    const { principal, origin, body, record, offset, end } = request
    const known = offset === 0 ? this.#encryptHeads.find(body.bytes) : undefined
    let fields: KnownEncrypt
    if (known === undefined) {
      const decoded = decodeEncryptRequest(body.bytes, offset, end)
      fields = { ...decoded, context: this.#canonical(decoded.context) }
      if (offset === 0) this.#encryptHeads.remember(body.bytes, decoded.headEnd, fields)
    } else {
      fields = known.fields
    }
    const plaintexts =
      known === undefined ? fields.plaintexts : this.#encryptHeads.messagesBehind(known, body.bytes)
    record?.asked(fields.context.bytes, plaintexts.count, fields.key)
    const result = this.#envelope.encrypt({
      principal,
      origin,
      key: fields.key,
      context: fields.context,
      form: fields.form,
      suite: fields.suite,
      body,
      plaintexts,
    })
    return this.#answer(result, 'encrypt', record, encodeEncrypted)
  }

  #decrypt(request: OperationRequest): MaybePromise<Answer> {
    const { principal, origin, body, record, offset, end } = request
    const known = offset === 0 ? this.#decryptHeads.find(body.bytes) : undefined
    let fields: KnownDecrypt
    if (known === undefined) {
      const decoded = decodeDecryptRequest(body.bytes, offset, end)
      fields = { ...decoded, context: this.#canonical(decoded.context) }
      if (offset === 0) this.#decryptHeads.remember(body.bytes, decoded.headEnd, fields)
    } else {
      fields = known.fields
    }
    const ciphertexts =
      known === undefined
        ? fields.ciphertexts
        : this.#decryptHeads.messagesBehind(known, body.bytes)
    const { packed, keyEntries } = fields
    record?.asked(fields.context.bytes, ciphertexts?.count ?? 1)
    if (record !== undefined && packed !== undefined) record.packed = { body, ...packed }
    const result = this.#envelope.decrypt({
      principal,
      origin,
      context: fields.context,
      body,
      ciphertexts,
      packed,
      keyEntries,
    })
    return this.#answer(result, 'decrypt', record, encodeDecrypted)
  }

  #reEncrypt(request: OperationRequest): MaybePromise<Answer> {
    const { principal, origin, body, record, offset, end } = request
    const fields = decodeReEncryptRequest(body.bytes, offset, end)
    const { key, mode, suite, ciphertexts, packed, keyEntries, newContext } = fields
    record?.asked(fields.context, ciphertexts?.count ?? 1, key)
    if (record !== undefined && packed !== undefined) record.packed = { body, ...packed }
    const result = this.#envelope.reEncrypt({
      principal,
      origin,
      key,
      mode,
      suite,
      context: this.#canonical(fields.context),
      newContext: newContext === undefined ? undefined : this.#canonical(newContext),
      body,
      ciphertexts,
      packed,
      keyEntries,
    })
    return this.#answer(result, 're-encrypt', record, encodeReEncrypted)
  }

  async #dataKeys(request: OperationRequest): Promise<Answer> {
    const { principal, origin, body, record, offset, end } = request
    const { key, context, count, plaintext } = decodeDataKeysRequest(body.bytes, offset, end)
    const operation = plaintext ? 'GenerateDataKey' : 'GenerateDataKeyWithoutPlaintext'
    record?.asked(context, count, key)
    if (record !== undefined) record.operation = operation
    const { keyId, dataKeys, uses } = await this.#envelope.dataKeys({
      principal,
      origin,
      key,
      context: this.#canonical(context),
      count,
      plaintext,
    })
    const bytes = count * DATA_KEY_BYTES
    countUses(this.#engine.keyUses, uses, { bytes, operation })
    record?.used(uses, [])
    if (record !== undefined) record.bytes = bytes
    return encodeDataKeys(keyId, dataKeys)
  }

  async #messageKeys(request: OperationRequest): Promise<Answer> {
    const { principal, origin, body, record, offset, end } = request
    const fields = decodeMessageKeysRequest(body.bytes, offset, end)
    const { key, keyEntries } = fields
    const asking = { principal, origin, context: this.#canonical(fields.context) }
    record?.asked(fields.context, keyEntries === undefined ? fields.count : keyEntries.length, key)
    const released = await (keyEntries === undefined
      ? this.#envelope.newMessageKeys({ ...asking, key: fields.key, count: fields.count })
      : this.#envelope.openMessageKeys({
          ...asking,
          keyEntries: keyEntries.map((span) => body.bytes.slice(span.offset, span.end)),
        }))
    // How much they will seal nobody here will know: a key counts as one message.
    const use = { bytes: 0, operation: OPERATION_NAMES['message-keys'] }
    countUses(this.#engine.keyUses, released.uses, use)
    record?.used(released.uses, released.refusedKeys)
    // Who only asks uses none.
    if (released.keyId !== undefined) record?.about(released.keyId)
    if (record !== undefined) record.failed = released.errors.length
    return encodeMessageKeys(released)
  }

  #answer(
    result: MaybePromise<BatchResult>,
    op: OperationName,
    record: RequestRecord | undefined,
    encode: (result: BatchResult, slots: SlotPool) => Answer,
  ): MaybePromise<Answer> {
    if (result instanceof Promise) {
      return result.then((done) => this.#answer(done, op, record, encode))
    }
    const use = { bytes: result.plaintextBytes, operation: OPERATION_NAMES[op] }
    countUses(this.#engine.keyUses, result.uses, use)
    record?.done(result)
    return encode(result, this.#slots)
  }

  #canonical(bytes: Uint8Array): CanonicalContext {
    return { bytes, hash: this.#crypto.sha256(bytes) }
  }

  /** One array of all answers, copied: many small operations are what /v1/batch is for. */
  #joinAnswers(answers: readonly Answer[]): Answer {
    const bytes = answers.reduce((sum, { offset, end }) => sum + end - offset, 0)
    const slot = this.#slots.acquire(FRAME_HEADER_BYTES + 5 + bytes)
    const writer = new MsgpackWriter(slot.bytes, FRAME_HEADER_BYTES).arrayHead(answers.length)
    for (const { memory, offset, end } of answers) writer.raw(memory.subarray(offset, end))
    return {
      memory: slot.bytes,
      offset: FRAME_HEADER_BYTES,
      end: writer.offset,
      release: () => slot.release(),
    }
  }
}
