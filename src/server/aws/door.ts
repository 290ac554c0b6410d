/**
 * POST /: the AWS KMS API, AWS JSON 1.1 (AWS Smithy, "AWS JSON 1.1 protocol"). A request is signed, names an operation
 * in X-Amz-Target, and brings one JSON object; the answer is another, or an error of AWS's name.
 */
import { randomUUID } from 'node:crypto'

import type { Engine } from '../../engine.ts'
import { ERRORS, KeyfoldError, type ErrorCode } from '../../errors.ts'
import type { RequestOrigin } from '../../kms/kms-key.ts'
import { Call } from './call.ts'
import { OPERATIONS } from './operations.ts'
import type { Output } from './operation.ts'
import type { RequestTarget } from './canonical-request.ts'
import { SignatureVerifier, type SignatureClaim } from './sigv4.ts'

/** The longest: a policy of 131,072 characters, each of which JSON may write as six bytes. */
export const AWS_REQUEST_BYTES_MAX = 1024 * 1024

export const AWS_JSON_TYPE = 'application/x-amz-json-1.1'

const TARGET_PREFIX = 'TrentService.'

export interface AwsAnswer {
  readonly status: number
  readonly requestId: string
  readonly body: string
}

/** What a request's headers say, read before its body is there: they do not outlive the handler. */
export interface AwsHead {
  /** Who claims to have signed, or why that cannot be told. */
  readonly claim: SignatureClaim | KeyfoldError
  readonly target: string
  readonly origin: RequestOrigin
}

export class AwsDoor {
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

  /** `admit` throws where nobody is served now, whoever asks. */
  read(request: RequestTarget, origin: RequestOrigin, admit: () => void): AwsHead {
    const target = request.header('x-amz-target')
    try {
      admit()
      const claim = this.#signatures.read(request, Date.now())
      return { claim, target, origin }
    } catch (error) {
      if (!(error instanceof KeyfoldError)) throw error
      return { claim: error, target, origin }
    }
  }

  /** Never rejects. */
  async answer(head: AwsHead, body: Uint8Array): Promise<AwsAnswer> {
    const requestId = randomUUID()
    try {
      const output = await this.#run(head, body, requestId)
      return { status: 200, requestId, body: encode(output) }
    } catch (error) {
      return this.refuse(error, requestId)
    }
  }

  refuse(error: unknown, requestId: string = randomUUID()): AwsAnswer {
    const known = error instanceof KeyfoldError && error.code !== 'INTERNAL'
    if (!known) this.#unexpected(error, requestId)
    const { code, detail } = known ? error : new KeyfoldError('INTERNAL')
    return { status: statusOf(code), requestId, body: encodeError(code, detail) }
  }

  async #run(head: AwsHead, body: Uint8Array, requestId: string): Promise<Output> {
    if (head.claim instanceof KeyfoldError) throw head.claim
    const { principal, region } = this.#signatures.verify(head.claim, body)
    if (this.#engine.locked) throw new KeyfoldError('LOCKED')
    const operation = head.target.startsWith(TARGET_PREFIX)
      ? OPERATIONS.get(head.target.slice(TARGET_PREFIX.length))
      : undefined
    if (operation === undefined) throw new KeyfoldError('OPERATION_UNKNOWN')
    const call = new Call({
      engine: this.#engine,
      principal,
      region,
      requestId,
      origin: head.origin,
    })
    return operation.answer(call, parse(body))
  }
}

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
