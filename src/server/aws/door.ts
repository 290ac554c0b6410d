/**
 * POST /: the AWS KMS API, AWS JSON 1.1 (AWS Smithy, "AWS JSON 1.1 protocol"). A request is signed, names an operation
 * in X-Amz-Target, and brings one JSON object; the answer is another, or an error of AWS's name.
 */
import { randomUUID } from 'node:crypto'

import type { Engine } from '../../engine.ts'
import { countUses } from '../../envelope/uses.ts'
import { ERRORS, KeyfoldError, type ErrorCode } from '../../errors.ts'
import { encodeEncryptionContext } from '../../format/encryption-context.ts'
import { encodeText } from '../answer.ts'
import { recorded, recordedDurably, RequestRecord } from '../records.ts'
import type { SignedAnswer, SignedDoor, SignedHead } from '../signed-door.ts'
import { Call } from './call.ts'
import { OPERATIONS } from './operations.ts'
import type { Operation, Output } from './operation.ts'
import type { RequestTarget } from './canonical-request.ts'
import { SignatureVerifier } from './sigv4.ts'

/** The longest: a policy of 131,072 characters, each of which JSON may write as six bytes. */
const AWS_REQUEST_BYTES_MAX = 1024 * 1024

const AWS_JSON_TYPE = 'application/x-amz-json-1.1'

const TARGET_PREFIX = 'TrentService.'

export interface AwsHead extends SignedHead {
  readonly target: string
}

export class AwsDoor implements SignedDoor<AwsHead> {
  readonly requestBytesMax = AWS_REQUEST_BYTES_MAX
  readonly contentType = AWS_JSON_TYPE
  readonly requestIdHeader = 'x-amzn-RequestId'
  readonly #engine: Engine
  readonly #signatures: SignatureVerifier
  /** Is told what no caller is. */
  readonly #unexpected: (error: unknown, requestId: string) => void

  constructor(engine: Engine, unexpected: (error: unknown, requestId: string) => void) {
    const { accessKeys, config } = engine
    this.#engine = engine
    this.#unexpected = unexpected
    this.#signatures = new SignatureVerifier({
      service: 'kms',
      regions: new Set([config.region, ...config.otherRegions]),
      lookUp: (accessKeyId) => accessKeys.find(accessKeyId),
    })
    accessKeys.onChange(() => this.#signatures.forget())
  }

  read(
    request: RequestTarget,
    from: Pick<AwsHead, 'origin' | 'address'>,
    admit: () => string,
  ): AwsHead {
    const target = request.header('x-amz-target')
    try {
      admit()
      const claim = this.#signatures.read(request, Date.now())
      return { claim, target, ...from }
    } catch (error) {
      if (!(error instanceof KeyfoldError)) throw error
      return { claim: error, target, ...from }
    }
  }

  async answer(head: AwsHead, body: Uint8Array): Promise<SignedAnswer> {
    const requestId = randomUUID()
    const name = head.target.startsWith(TARGET_PREFIX)
      ? head.target.slice(TARGET_PREFIX.length)
      : undefined
    const operation = name === undefined ? undefined : OPERATIONS.get(name)
    const record = this.#record(operation?.name ?? 'Unknown', requestId, head.address)
    const work = (): Promise<Done> => this.#run(head, operation, body, requestId, record)
    try {
      const { output } =
        operation === undefined || DATA_PLANE.has(operation.name)
          ? await recorded(this.#engine, record, work)
          : await recordedDurably(this.#engine, record, false, work)
      const answer = { status: 200, requestId, body: encodeText(encode(output)) }
      for (const name of SECRETS) {
        const secret = output[name]
        if (secret instanceof Uint8Array) secret.fill(0)
      }
      return answer
    } catch (error) {
      return this.refuse(error, requestId)
    }
  }

  #record(
    operation: string,
    requestId: string,
    sourceAddress: string | undefined,
  ): RequestRecord | undefined {
    if (!this.#engine.audit.on) return undefined
    return new RequestRecord(operation, { requestId, sourceAddress, door: 'kms' })
  }

  refuse(error: unknown, requestId: string = randomUUID()): SignedAnswer {
    const known = error instanceof KeyfoldError && error.code !== 'INTERNAL'
    if (!known) this.#unexpected(error, requestId)
    const { code, detail } = known ? error : new KeyfoldError('INTERNAL')
    const body = encodeText(encodeError(code, detail))
    return { status: statusOf(code), requestId, body }
  }

  async #run(
    { claim, origin }: AwsHead,
    operation: Operation | undefined,
    body: Uint8Array,
    requestId: string,
    record: RequestRecord | undefined,
  ): Promise<Done> {
    if (claim instanceof KeyfoldError) throw claim
    const { principal, region } = this.#signatures.verify(claim, body)
    record?.by(principal)
    if (this.#engine.locked) throw new KeyfoldError('LOCKED')
    if (operation === undefined) throw new KeyfoldError('OPERATION_UNKNOWN')
    const call = new Call({ engine: this.#engine, principal, region, requestId, origin })
    try {
      const output = await operation.answer(call, parse(body))
      const { uses, bytes } = call
      countUses(this.#engine.keyUses, uses, { bytes, operation: operation.name })
      return { output, release: () => undefined }
    } finally {
      if (record !== undefined) describe(record, call)
    }
  }
}

/** Members whose bytes are the caller's alone: wiped once they are written. Others may be views of what is kept. */
const SECRETS = ['Plaintext', 'PrivateKeyPlaintext', 'SharedSecret'] as const

/** What an operation answered. Nothing of it is held: an answer that is thrown away goes with the garbage. */
interface Done {
  readonly output: Output
  release(): void
}

/** What a call says of itself, whether it was allowed or not. */
function describe(record: RequestRecord, { keyArns, encryptionContext, bytes }: Call): void {
  record.bytes = bytes
  for (const arn of keyArns) record.about(arn)
  record.messages = 1
  if (encryptionContext !== undefined && encryptionContext.size > 0) {
    try {
      record.encryptionContext = encodeEncryptionContext(encryptionContext)
    } catch {
      // It is none, which is why the call was refused.
    }
  }
}

/** Cryptography: recorded as the audit log is set to. Everything else is management, and waits for its record. */
const DATA_PLANE: ReadonlySet<string> = new Set([
  'Encrypt',
  'Decrypt',
  'ReEncrypt',
  'GenerateDataKey',
  'GenerateDataKeyWithoutPlaintext',
  'GenerateDataKeyPair',
  'GenerateDataKeyPairWithoutPlaintext',
  'GenerateMac',
  'VerifyMac',
  'GenerateRandom',
  'Sign',
  'Verify',
  'DeriveSharedSecret',
  'GetPublicKey',
])

/** Duplicate members: JSON.parse keeps the last, as AWS's own parsers do. */
function parse(body: Uint8Array): unknown {
  if (body.length === 0) return {}
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (cause) {
    throw new KeyfoldError('SERIALIZATION_INVALID', undefined, cause)
  }
}

/** Bytes as base64. They are looked for in their place: a Buffer would have become an array of numbers by now. */
function encode(output: Output): string {
  return JSON.stringify(output, function (this: Record<string, unknown>, name, value: unknown) {
    const original = this[name]
    return original instanceof Uint8Array ? Buffer.from(original).toString('base64') : value
  })
}

/** AWS KMS answers 400 to whatever is the caller's fault; the model's 404 and 409 are not what it sends. */
function statusOf(code: ErrorCode): number {
  const { status, aws } = ERRORS[code]
  if (status < 500 || aws === 'ThrottlingException') return 400
  return aws === 'DependencyTimeoutException' ? 503 : 500
}

/** These come without a message. */
const SILENT: ReadonlySet<string> = new Set([
  'InvalidCiphertextException',
  'KMSInvalidSignatureException',
  'KMSInvalidMacException',
])
const THROTTLED =
  'You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.'

function encodeError(code: ErrorCode, detail: string | undefined): string {
  const { aws, message } = ERRORS[code]
  if (SILENT.has(aws)) return JSON.stringify({ __type: aws })
  const told = aws === 'ThrottlingException' ? THROTTLED : (detail ?? message)
  // The one error of AWS's whose message has a capital letter; its clients read both.
  if (aws === 'AccessDeniedException') return JSON.stringify({ __type: aws, Message: told })
  return JSON.stringify({ __type: aws, message: told })
}
