/**
 * POST [/PREFIX]/kms/xks/v1/…: keyfold as an external key store proxy, so that KMS keys in AWS KMS (or in another
 * keyfold) have their key material here (AWS XKS Proxy API 1.0.3). A prefix is there while an access key is for it.
 *
 * AWS KMS may show a client certificate: where its common names are configured, nobody else's is taken.
 */
import { randomUUID, X509Certificate } from 'node:crypto'
import { LRUCache } from 'lru-cache'

import type { Engine } from '../../engine.ts'
import { KeyfoldError } from '../../errors.ts'
import { encodeJsonBytes } from '../../format/json-bytes.ts'
import { isExternalKeyId, isXksPrefix, XKS_SERVICE } from '../../format/xks-protocol.ts'
import { XKS_REQUEST_BYTES_MAX, XKS_URI_CHARACTERS_MAX } from '../../limits.ts'
import type { Answer } from '../answer.ts'
import type { RequestTarget } from '../aws/canonical-request.ts'
import { SignatureVerifier } from '../aws/sigv4.ts'
import { JSON_TYPE } from '../http.ts'
import { commonNameOf } from '../principals.ts'
import { recorded, RequestRecord } from '../records.ts'
import type { SignedAnswer, SignedDoor, SignedHead } from '../signed-door.ts'
import { refusalOf } from './errors.ts'
import { XksHealth } from './health.ts'
import { runXksOperation, XKS_OPERATIONS, type XksOperationName } from './operations.ts'

const URI_PATTERN = /^(.*)\/kms\/xks\/v1\/(?:(health)|keys\/([^/]+)\/(metadata|encrypt|decrypt))$/
/** Certificates whose common name was looked at: AWS KMS shows one at a time. */
const CERTIFICATES_REMEMBERED_MAX = 16

interface XksUri {
  readonly prefix: string
  readonly operation: XksOperationName
  /** '' where the operation concerns no key. */
  readonly externalKeyId: string
}

export interface XksHead extends SignedHead {
  /** What was asked for; an error where it is nothing of the API's. */
  readonly uri: XksUri | KeyfoldError
}

/** Whether a path is of this door, though it may lead nowhere. */
export function isXksPath(path: string): boolean {
  return /\/kms\/xks\/v1(?:\/|$)/.test(path)
}

export class XksDoor implements SignedDoor<XksHead> {
  readonly requestBytesMax = XKS_REQUEST_BYTES_MAX
  readonly contentType = JSON_TYPE
  readonly requestIdHeader = 'X-Request-Id'
  readonly #engine: Engine
  readonly #signatures: SignatureVerifier
  readonly #health: XksHealth
  /** Common names by certificate. */
  readonly #names = new LRUCache<string, string>({ max: CERTIFICATES_REMEMBERED_MAX })
  /** Is told what no caller is. */
  readonly #unexpected: (error: unknown, requestId: string) => void

  constructor(engine: Engine, unexpected: (error: unknown, requestId: string) => void) {
    const { accessKeys } = engine
    this.#engine = engine
    this.#unexpected = unexpected
    this.#health = new XksHealth(engine)
    this.#signatures = new SignatureVerifier({
      service: XKS_SERVICE,
      // Where AWS KMS calls from: any region of AWS's.
      regions: undefined,
      lookUp: (accessKeyId) => accessKeys.findOfProxy(accessKeyId),
    })
    accessKeys.onChange(() => this.#signatures.forget())
  }

  read(
    request: RequestTarget,
    { origin, address }: Pick<SignedHead, 'origin' | 'address'>,
    admit: () => string,
  ): XksHead {
    const uri = this.#readUri(request)
    try {
      this.#checkClient(admit())
      // A Date header would do for other services.
      if (request.header('x-amz-date') === '') throw new KeyfoldError('REQUEST_SIGNATURE_INVALID')
      return { uri, claim: this.#signatures.read(request, Date.now()), origin, address }
    } catch (error) {
      if (!(error instanceof KeyfoldError)) throw error
      return { uri, claim: error, origin, address }
    }
  }

  async answer(head: XksHead, body: Uint8Array): Promise<SignedAnswer> {
    const requestId = randomUUID()
    const { uri } = head
    if (uri instanceof KeyfoldError) return this.refuse(uri, requestId)
    const record = this.#record(uri, requestId, head.address)
    try {
      const answer = await recorded(this.#engine, record, () => this.#run(head, uri, body, record))
      return { status: 200, requestId, body: answer }
    } catch (error) {
      return this.refuse(error, requestId)
    }
  }

  refuse(error: unknown, requestId: string = randomUUID()): SignedAnswer {
    const known = error instanceof KeyfoldError && error.code !== 'INTERNAL'
    if (!known) this.#unexpected(error, requestId)
    const { status, ...told } = refusalOf(known ? error : new KeyfoldError('INTERNAL'))
    return { status, requestId, body: answerOf(encodeJsonBytes(told, {})) }
  }

  #record(
    { operation }: XksUri,
    requestId: string,
    sourceAddress: string | undefined,
  ): RequestRecord | undefined {
    if (!this.#engine.audit.on) return undefined
    const { name } = XKS_OPERATIONS[operation]
    const record = new RequestRecord(name, { requestId, sourceAddress, door: 'xks' })
    record.messages = 1
    return record
  }

  async #run(
    { claim, origin }: XksHead,
    { prefix, operation, externalKeyId }: XksUri,
    body: Uint8Array,
    record: RequestRecord | undefined,
  ): Promise<Answer> {
    if (claim instanceof KeyfoldError) throw claim
    const { principal, accessKeyId } = this.#signatures.verify(claim, body)
    // Proxies below different prefixes are strangers to each other.
    if (this.#engine.accessKeys.findOfProxy(accessKeyId)?.xksPrefix !== prefix) {
      throw new KeyfoldError('ACCESS_KEY_UNKNOWN')
    }
    record?.by(principal)
    if (this.#engine.locked) throw new KeyfoldError('LOCKED')
    const call = {
      engine: this.#engine,
      health: this.#health,
      principal,
      origin,
      externalKeyId,
      record,
    }
    return answerOf(await runXksOperation(XKS_OPERATIONS[operation], call, body))
  }

  /** An error where there is nothing below this path, or not for this method. */
  #readUri({ method, path, query }: RequestTarget): XksUri | KeyfoldError {
    const [, prefix = '', health, externalKeyId = '', operation] = URI_PATTERN.exec(path) ?? []
    const isUri =
      path.length <= XKS_URI_CHARACTERS_MAX &&
      query === '' &&
      isXksPrefix(prefix) &&
      this.#engine.accessKeys.hasXksPrefix(prefix) &&
      (health !== undefined || (operation !== undefined && isExternalKeyId(externalKeyId)))
    if (!isUri) return new KeyfoldError('ROUTE_NOT_FOUND')
    if (method !== 'POST') return new KeyfoldError('METHOD_NOT_ALLOWED', 'POST is needed')
    return { prefix, operation: (health ?? operation) as XksOperationName, externalKeyId }
  }

  /** Throws UNAUTHENTICATED. */
  #checkClient(certificate: string): void {
    const { xksClientNames } = this.#engine.config
    if (xksClientNames.length === 0) return
    let name = this.#names.get(certificate)
    if (name === undefined) {
      name = commonNameOf(new X509Certificate(certificate))
      this.#names.set(certificate, name)
    }
    if (xksClientNames.includes(name)) return
    throw new KeyfoldError('UNAUTHENTICATED', 'the client certificate is of somebody else')
  }
}

/** Filled with zeros when it is gone: it may hold a plaintext. */
function answerOf(memory: Uint8Array): Answer {
  return { memory, offset: 0, end: memory.length, release: () => memory.fill(0) }
}
