/**
 * AWS Signature Version 4: who signed a request, told from its headers and body alone.
 *
 *     Authorization: AWS4-HMAC-SHA256 Credential=ID/DATE/REGION/SERVICE/aws4_request,
 *                    SignedHeaders=host;x-amz-date;…, Signature=64 hex digits
 *
 * In two steps, because headers do not outlive the tick in which they arrive and the body may: `read` takes what the
 * headers say and checks all of it that needs no secret, `verify` adds the body. A request by a known access key costs
 * two hashes and one HMAC; the secret is opened once for each day and region, to derive a signing key.
 *
 * An access key that does not exist is verified like one that does, against a secret that nobody has: how long a
 * refusal takes does not tell the two apart.
 *
 * Details of errors are AWS's own texts where AWS has one: people and programs search for them.
 */
import { hash, randomBytes, timingSafeEqual } from 'node:crypto'
import { inspect } from 'node:util'
import { LRUCache } from 'lru-cache'

import {
  basicTime,
  deriveSigningKey,
  SCOPE_TERMINATOR,
  SIGNING_ALGORITHM,
  signatureOf,
} from '../../crypto/signing-key.ts'
import { KeyfoldError } from '../../errors.ts'
import {
  SIGNATURE_SKEW_MS_MAX,
  SIGNED_HEADER_LISTS_MAX,
  SIGNED_HEADERS_MAX,
  SIGNING_KEYS_MAX,
} from '../../limits.ts'
import type { Principal } from '../../kms/kms-key.ts'
import { canonicalHead, type RequestTarget } from './canonical-request.ts'

/** What signs: an access key, as whoever keeps access keys knows it. */
export interface SigningCredential {
  readonly principal: Principal
  /** SHA-256 of the session token that has to come along; undefined for long-lived keys. */
  readonly sessionTokenHash: Uint8Array | undefined
  /** A copy of the secret access key, which the caller fills with zeros. */
  openSecret(): Uint8Array
}

/** What the headers of a request claim. Nothing of it is proven before `verify`. */
export interface SignatureClaim {
  readonly accessKeyId: string
  /** DATE/REGION/SERVICE/aws4_request */
  readonly scope: string
  readonly date: string
  readonly region: string
  /** x-amz-date */
  readonly signedAt: string
  /** When the headers arrived. */
  readonly nowMs: number
  /** x-amz-security-token, or ''. */
  readonly sessionToken: string
  /** x-amz-content-sha256, or ''. */
  readonly bodyHash: string
  readonly canonicalHead: string
  readonly signature: string
}

/** Who signed, and for which region: requests are served for the region of their scope. */
export interface Signer {
  readonly principal: Principal
  readonly accessKeyId: string
  readonly region: string
}

interface SigningKey {
  /** Whose secret it was derived from: another credential under the same id derives its own. */
  readonly owner: SigningCredential
  readonly bytes: Buffer
}

/** Holds derived signing keys, and shows them to nobody. */
export class SignatureVerifier {
  readonly #service: string
  readonly #regions: ReadonlySet<string> | undefined
  readonly #lookUp: (accessKeyId: string) => SigningCredential | undefined
  /** Stands in for access keys that do not exist. */
  readonly #decoy: SigningCredential
  /** By access key id and scope. */
  readonly #signingKeys = new LRUCache<string, SigningKey>({
    max: SIGNING_KEYS_MAX,
    dispose: ({ bytes }) => bytes.fill(0),
  })
  /** Lists of signed headers that were found to be in order. */
  readonly #headerLists = new LRUCache<string, readonly string[]>({ max: SIGNED_HEADER_LISTS_MAX })
  /** Requests of one second carry one text. */
  #lastMoment: { readonly text: string; readonly ms: number } = { text: '', ms: 0 }

  constructor(options: {
    /** The signing name: `kms`, `kms-xks-proxy`. */
    readonly service: string
    /** Undefined: the region is where the signer is, and any is good. */
    readonly regions: ReadonlySet<string> | undefined
    /** Waits for nothing, and knows no access key that was revoked. */
    readonly lookUp: (accessKeyId: string) => SigningCredential | undefined
  }) {
    this.#service = options.service
    this.#regions = options.regions
    this.#lookUp = options.lookUp
    const secret = randomBytes(30)
    this.#decoy = {
      principal: {
        arn: '',
        credential: 'access-key',
        tokenId: '',
        actions: [],
        keys: [],
        expiresAtMs: undefined,
      },
      sessionTokenHash: undefined,
      openSecret: () => Uint8Array.from(secret),
    }
  }

  /** Errors: AUTHENTICATION_MISSING, REQUEST_SIGNATURE_INVALID. */
  read(request: RequestTarget, nowMs: number): SignatureClaim {
    const { credential, signedHeaders, signature } = readAuthorization(request)
    const names = this.#signedNames(signedHeaders)
    const dateHeader = request.header('x-amz-date') === '' ? 'date' : 'x-amz-date'
    const dateText = request.header(dateHeader)
    if (dateText === '') {
      throw invalid(
        "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
      )
    }
    const signedAt = this.#readMoment(dateText, dateHeader, nowMs)
    const [accessKeyId, date, region] = this.#readCredential(credential, signedAt)
    for (const name of ['host', dateHeader]) {
      if (!names.includes(name)) throw invalid(`'${name}' must be a 'SignedHeader'.`)
    }
    // It names the operation: unsigned, a caller's signature on one would serve for another.
    if (request.header('x-amz-target') !== '' && !names.includes('x-amz-target')) {
      throw invalid("'x-amz-target' must be a 'SignedHeader'.")
    }
    const bodyHash = request.header('x-amz-content-sha256')
    if (bodyHash === 'UNSIGNED-PAYLOAD') throw invalid('the body must be signed')
    return {
      accessKeyId,
      scope: credential.slice(accessKeyId.length + 1),
      date,
      region,
      signedAt,
      nowMs,
      sessionToken: request.header('x-amz-security-token'),
      bodyHash,
      canonicalHead: canonicalHead(request, names, signedHeaders),
      signature,
    }
  }

  /** Errors: ACCESS_KEY_UNKNOWN, REQUEST_SIGNATURE_INVALID, SESSION_EXPIRED, and those of looking up (LOCKED). */
  verify(claim: SignatureClaim, body: Uint8Array): Signer {
    const bodyHash = hash('sha256', body, 'hex')
    if (claim.bodyHash !== '' && claim.bodyHash !== bodyHash) {
      throw invalid(
        "The value of the 'x-amz-content-sha256' header does not match the calculated hash.",
      )
    }
    const { accessKeyId, scope, region } = claim
    const known = this.#lookUp(accessKeyId)
    const credential = known ?? this.#decoy
    const signingKey = this.#signingKey(known === undefined ? '' : accessKeyId, credential, claim)
    const canonical = claim.canonicalHead + bodyHash
    const signature = signatureOf(signingKey, { signedAt: claim.signedAt, scope, canonical })
    const signed = equalSecretly(Buffer.from(signature), Buffer.from(claim.signature))
    const inSession = equalSecretly(
      credential.sessionTokenHash ?? NO_SESSION,
      claim.sessionToken === '' ? NO_SESSION : hash('sha256', claim.sessionToken, 'buffer'),
    )
    // Nothing is told apart before everything was computed.
    if (known === undefined) throw new KeyfoldError('ACCESS_KEY_UNKNOWN')
    if (!signed) throw invalid()
    if (!inSession) throw new KeyfoldError('ACCESS_KEY_UNKNOWN')
    const { principal } = known
    if (principal.expiresAtMs !== undefined && principal.expiresAtMs <= claim.nowMs) {
      throw new KeyfoldError('SESSION_EXPIRED')
    }
    return { principal, accessKeyId, region }
  }

  /** Wipes every signing key: access keys were revoked, or all secrets are to leave memory. */
  forget(): void {
    this.#signingKeys.clear()
  }

  toJSON(): string {
    return `[SignatureVerifier ${this.#service}]`
  }

  [inspect.custom](): string {
    return this.toJSON()
  }

  #signingKey(id: string, owner: SigningCredential, claim: SignatureClaim): Buffer {
    const name = `${id}/${claim.scope}`
    const known = this.#signingKeys.get(name)
    if (known?.owner === owner) return known.bytes
    const secret = owner.openSecret()
    try {
      const { date, region } = claim
      const bytes = deriveSigningKey(secret, { date, region, service: this.#service })
      this.#signingKeys.set(name, { owner, bytes })
      return bytes
    } finally {
      secret.fill(0)
    }
  }

  /** Lower case, ascending, each once: as every signer writes them, and the only spelling that is looked at. */
  #signedNames(signedHeaders: string): readonly string[] {
    const known = this.#headerLists.get(signedHeaders)
    if (known !== undefined) return known
    const names = signedHeaders.split(';', SIGNED_HEADERS_MAX + 1)
    if (names.length > SIGNED_HEADERS_MAX) {
      throw invalid(`at most ${SIGNED_HEADERS_MAX} headers may be signed`)
    }
    const ordered = names.every((name, i) => i === 0 || (names[i - 1] as string) < name)
    if (!ordered || !names.every((name) => HEADER_NAME.test(name))) {
      throw invalid('SignedHeaders must be lower case, in order and each there once')
    }
    this.#headerLists.set(signedHeaders, names)
    return names
  }

  /** The moment as x-amz-date spells it, which is what was signed. */
  #readMoment(text: string, header: 'x-amz-date' | 'date', nowMs: number): string {
    if (text === this.#lastMoment.text) {
      checkSkew(this.#lastMoment.ms, nowMs)
      return text
    }
    const basicMs = readBasicTime(text)
    const ms = basicMs ?? (header === 'date' ? readHttpDate(text) : undefined)
    if (ms === undefined) throw invalid("Date must be in ISO-8601 'basic format'.")
    checkSkew(ms, nowMs)
    if (basicMs === undefined) return basicTime(ms)
    this.#lastMoment = { text, ms }
    return text
  }

  /** Access key id, date and region of a credential that is of this service, of one of its regions and of this day. */
  #readCredential(credential: string, signedAt: string): readonly [string, string, string] {
    const parts = credential.split('/', 6)
    const [accessKeyId = '', date = '', region = '', service, terminator] = parts
    if (parts.length !== 5 || accessKeyId === '') {
      throw invalid(
        'Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term',
      )
    }
    if (terminator !== SCOPE_TERMINATOR) {
      throw invalid(`Credential should be scoped with a valid terminator: '${SCOPE_TERMINATOR}'.`)
    }
    if (service !== this.#service) {
      throw invalid(`Credential should be scoped to correct service: '${this.#service}'.`)
    }
    if (!(this.#regions?.has(region) ?? REGION.test(region))) {
      throw invalid('Credential should be scoped to a valid region.')
    }
    if (!signedAt.startsWith(date) || date.length !== DATE_CHARACTERS) {
      throw invalid(
        'Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: ' +
          `'${date.slice(0, DATE_CHARACTERS)}' != '${signedAt.slice(0, DATE_CHARACTERS)}', from '${signedAt}'.`,
      )
    }
    return [accessKeyId, date, region]
  }
}

const NO_SESSION = new Uint8Array(0)
/** A token of RFC 9110 §5.6.2 in lower case. */
const HEADER_NAME = /^[a-z0-9!#$%&'*+.^_`|~-]+$/
/** What is no name of a region is not remembered either. */
const REGION = /^[a-z0-9-]{1,32}$/
const DATE_CHARACTERS = 'YYYYMMDD'.length

function invalid(detail?: string): KeyfoldError {
  return new KeyfoldError('REQUEST_SIGNATURE_INVALID', detail)
}

interface Authorization {
  readonly credential: string
  readonly signedHeaders: string
  readonly signature: string
}

function readAuthorization(request: RequestTarget): Authorization {
  const authorization = request.header('authorization')
  if (!authorization.startsWith(`${SIGNING_ALGORITHM} `)) {
    if (authorization === '' && /(?:^|&)X-Amz-(?:Algorithm|Signature)=/i.test(request.query)) {
      throw invalid('presigned requests are not served: sign in the Authorization header')
    }
    throw new KeyfoldError(
      'AUTHENTICATION_MISSING',
      authorization === '' ? undefined : `${SIGNING_ALGORITHM} is needed`,
    )
  }
  let [credential, signedHeaders, signature] = ['', '', '']
  for (let at = SIGNING_ALGORITHM.length + 1; at <= authorization.length;) {
    const comma = authorization.indexOf(',', at)
    const end = comma < 0 ? authorization.length : comma
    const parameter = authorization.slice(at, end).trim()
    const value = parameter.slice(parameter.indexOf('=') + 1)
    if (parameter.startsWith('Credential=') && credential === '') credential = value
    else if (parameter.startsWith('SignedHeaders=') && signedHeaders === '') signedHeaders = value
    else if (parameter.startsWith('Signature=') && signature === '') signature = value
    else throw invalid('Authorization has Credential, SignedHeaders and Signature, each once')
    at = end + 1
  }
  if (credential === '') throw invalid(missing('Credential'))
  if (signedHeaders === '') throw invalid(missing('SignedHeaders'))
  if (signature === '') throw invalid(missing('Signature'))
  return { credential, signedHeaders, signature }
}

function missing(parameter: string): string {
  return `Authorization header requires '${parameter}' parameter.`
}

/** Refused a second beyond the window and not at its edge, by whole seconds, as x-amz-date counts them. */
function checkSkew(signedMs: number, nowMs: number): void {
  const now = nowMs - (nowMs % 1000)
  const earliest = now - SIGNATURE_SKEW_MS_MAX
  const latest = now + SIGNATURE_SKEW_MS_MAX
  const minutes = SIGNATURE_SKEW_MS_MAX / 60_000
  if (signedMs < earliest) {
    throw invalid(
      `Signature expired: ${basicTime(signedMs)} is now earlier than ` +
        `${basicTime(earliest)} (${basicTime(now)} - ${minutes} min.)`,
    )
  }
  if (signedMs > latest) {
    throw invalid(
      `Signature not yet current: ${basicTime(signedMs)} is still later than ` +
        `${basicTime(latest)} (${basicTime(now)} + ${minutes} min.)`,
    )
  }
}

/** 20150830T123600Z; undefined where it is no moment, such as the 30th of February. */
function readBasicTime(text: string): number | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text)
  if (match === null) return undefined
  const [year, month, day, hours, minutes, seconds] = match.slice(1).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ]
  const ms = Date.UTC(year, month - 1, day, hours, minutes, seconds)
  return basicTime(ms) === text ? ms : undefined
}

/** Sun, 30 Aug 2015 12:36:00 GMT: what a Date header holds (RFC 9110 §5.6.7). */
function readHttpDate(text: string): number | undefined {
  const moment = new Date(text)
  return moment.toUTCString() === text ? moment.getTime() : undefined
}

/** timingSafeEqual throws where lengths differ; the lengths here are no secret. */
function equalSecretly(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && timingSafeEqual(one, other)
}
