/**
 * Signatures of AWS Signature Version 4: AWS's published examples, the signer of its JavaScript SDK, and a signer of
 * our own for everything that must be refused.
 */
import { createHash } from 'node:crypto'
import { SignatureV4 } from '@smithy/signature-v4'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { KeyfoldError } from '../../../dist/errors.js'
import {
  SignatureVerifier,
  type Signer,
  type SigningCredential,
} from '../../../dist/server/aws/sigv4.js'
import { Sha256 } from './sha256.ts'
import { sent, sign, type Sent, type Signing } from './signer.ts'

const ID = 'AKIDEXAMPLE'
/** AWS's example secret. */
const SECRET = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY'
const NOW = '20150830T123600Z'
const NOW_MS = Date.UTC(2015, 7, 30, 12, 36, 0)
const MINUTE_MS = 60_000

interface Known extends SigningCredential {
  /** Copies of the secret that were handed out. */
  readonly opened: Uint8Array[]
}

function credentialOf(
  options: {
    readonly id?: string
    readonly secret?: string
    readonly sessionToken?: string
    readonly expiresAtMs?: number
  } = {},
): Known {
  const { id = ID, secret = SECRET, sessionToken, expiresAtMs } = options
  const opened: Uint8Array[] = []
  return {
    principal: {
      arn: `arn:aws:iam::000000000000:user/${id}`,
      credential: 'access-key',
      tokenId: id,
      actions: ['*'],
      keys: ['*'],
      expiresAtMs,
    },
    sessionTokenHash:
      sessionToken === undefined ? undefined : createHash('sha256').update(sessionToken).digest(),
    openSecret: () => {
      const copy = Uint8Array.from(Buffer.from(secret))
      opened.push(copy)
      return copy
    },
    opened,
  }
}

function verifierOf(
  credentials: Readonly<Record<string, SigningCredential>> = { [ID]: credentialOf() },
  service = 'kms',
): SignatureVerifier {
  return new SignatureVerifier({
    service,
    regions: new Set(['us-east-1', 'eu-west-1']),
    lookUp: (id) => (Object.hasOwn(credentials, id) ? credentials[id] : undefined),
  })
}

function verify(verifier: SignatureVerifier, request: Sent, nowMs = NOW_MS): Signer {
  return verifier.verify(verifier.read(request, nowMs), request.body)
}

/** The code of the error, and its detail. */
function refusal(
  verifier: SignatureVerifier,
  request: Sent,
  nowMs = NOW_MS,
): readonly [string, string | undefined] {
  try {
    verify(verifier, request, nowMs)
  } catch (error) {
    expect(error).toBeInstanceOf(KeyfoldError)
    const { code, detail } = error as KeyfoldError
    return [code, detail]
  }
  return ['ACCEPTED', undefined]
}

const INVALID = 'REQUEST_SIGNATURE_INVALID'
/** The signature is wrong, and nothing else is said. */
const WRONG = [INVALID, undefined]

const signed = (changes: Partial<Signing> = {}): Sent =>
  sign({
    secret: SECRET,
    accessKeyId: ID,
    signedAt: NOW,
    body: '{"KeyId":"alias/a"}',
    ...changes,
    headers: {
      'content-type': 'application/x-amz-json-1.1',
      'x-amz-target': 'TrentService.Encrypt',
      ...changes.headers,
    },
  })

function withHeaders(request: Sent, changes: Readonly<Record<string, string | undefined>>): Sent {
  const headers = Object.fromEntries(
    Object.entries({ ...request.headers, ...changes }).filter(([, value]) => value !== undefined),
  ) as Record<string, string>
  return { ...request, headers, header: (name) => headers[name] ?? '' }
}

const withAuthorization = (request: Sent, change: (text: string) => string): Sent =>
  withHeaders(request, { authorization: change(request.headers['authorization'] ?? '') })

describe('the examples that AWS published', () => {
  interface Example {
    readonly method?: string
    readonly path?: string
    readonly query?: string
    readonly headers?: Readonly<Record<string, string>>
    readonly body?: string
    readonly signedHeaders?: string
    readonly signature: string
  }
  const encoded = '-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
  const form = {
    'content-length': '13',
    'x-amz-content-sha256': '9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e',
  }
  const formHeaders = 'content-length;content-type;host;x-amz-content-sha256;x-amz-date'
  const withMyHeader = 'host;my-header1;x-amz-date'
  /** "Signature Version 4 test suite" (AWS General Reference; awslabs/aws-c-auth, tests/aws-signing-test-suite/v4). */
  const SUITE: Readonly<Record<string, Example>> = {
    'get-vanilla': {
      signature: '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31',
    },
    'get-header-key-duplicate': {
      headers: { 'my-header1': 'value2,value2,value1' },
      signedHeaders: withMyHeader,
      signature: 'c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea',
    },
    'get-header-value-multiline': {
      headers: { 'my-header1': 'value1 \t value2\t    value3' },
      signedHeaders: withMyHeader,
      signature: 'cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd',
    },
    'get-header-value-order': {
      headers: { 'my-header1': 'value4,value1,value3,value2' },
      signedHeaders: withMyHeader,
      signature: '08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01',
    },
    'get-header-value-trim': {
      headers: { 'my-header1': ' value1', 'my-header2': ' "a   b   c"' },
      signedHeaders: 'host;my-header1;my-header2;x-amz-date',
      signature: 'acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736',
    },
    'get-relative-relative-normalized': {
      path: '/example1/example2/../..',
      signature: '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31',
    },
    'get-slashes-normalized': {
      path: '//example//',
      signature: '9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84',
    },
    'get-space-normalized': {
      path: '/example space/',
      signature: '652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741',
    },
    'get-unreserved': {
      path: `/${encoded}`,
      signature: '07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f',
    },
    'get-utf8': {
      path: '/ሴ',
      signature: '8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85',
    },
    'get-vanilla-empty-query-key': {
      query: 'Param1=value1',
      signature: 'a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb',
    },
    'get-vanilla-query-order-encoded': {
      query: 'Param-3=Value3&Param=Value2&%E1%88%B4=Value1',
      signature: '371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac',
    },
    'get-vanilla-query-order-key-case': {
      query: 'Param2=value2&Param1=value1',
      signature: 'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
    },
    'get-vanilla-query-unreserved': {
      query: `${encoded}=${encoded}`,
      signature: '9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197',
    },
    'get-vanilla-utf8-query': {
      query: 'ሴ=bar',
      signature: '2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04',
    },
    'post-header-key-sort': {
      method: 'POST',
      headers: { 'my-header1': 'value1' },
      signedHeaders: withMyHeader,
      signature: 'c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c',
    },
    'post-vanilla-empty-query-value': {
      method: 'POST',
      query: 'Param1=value1',
      signature: '28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11',
    },
    'post-x-www-form-urlencoded': {
      method: 'POST',
      headers: { ...form, 'content-type': 'application/x-www-form-urlencoded' },
      body: 'Param1=value1',
      signedHeaders: formHeaders,
      signature: 'd3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b',
    },
    'post-x-www-form-urlencoded-parameters': {
      method: 'POST',
      headers: { ...form, 'content-type': 'application/x-www-form-urlencoded; charset=utf-8' },
      body: 'Param1=value1',
      signedHeaders: formHeaders,
      signature: '328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422',
    },
  }

  const exampleRequest = (
    example: Example,
    { host = 'example.amazonaws.com', service = 'service' } = {},
  ): Sent =>
    sent({
      method: example.method ?? 'GET',
      path: example.path ?? '/',
      query: example.query ?? '',
      body: Buffer.from(example.body ?? ''),
      headers: {
        host,
        'x-amz-date': NOW,
        ...example.headers,
        authorization:
          `AWS4-HMAC-SHA256 Credential=${ID}/20150830/us-east-1/${service}/aws4_request, ` +
          `SignedHeaders=${example.signedHeaders ?? 'host;x-amz-date'}, Signature=${example.signature}`,
      },
    })

  test.each(Object.entries(SUITE))('%s', (_, example) => {
    const verifier = verifierOf(undefined, 'service')
    expect(verify(verifier, exampleRequest(example))).toMatchObject({
      accessKeyId: ID,
      region: 'us-east-1',
      principal: { arn: 'arn:aws:iam::000000000000:user/AKIDEXAMPLE' },
    })
    const other = exampleRequest({ ...example, path: `${example.path ?? '/'}x` })
    expect(refusal(verifier, other)).toEqual(WRONG)
  })

  test('ListUsers of IAM, the one that the documentation derives step by step', () => {
    const example: Example = {
      query: 'Action=ListUsers&Version=2010-05-08',
      headers: { 'content-type': 'application/x-www-form-urlencoded; charset=utf-8' },
      signedHeaders: 'content-type;host;x-amz-date',
      signature: '5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7',
    }
    const request = exampleRequest(example, { host: 'iam.amazonaws.com', service: 'iam' })
    expect(verify(verifierOf(undefined, 'iam'), request).accessKeyId).toBe(ID)
  })

  test.each([
    [
      'signed (get-vanilla-with-session-token)',
      'GET',
      '6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267',
      'host;x-amz-date;x-amz-security-token',
      '07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8',
    ],
    [
      'added after signing (post-sts-header-after)',
      'POST',
      'AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==',
      'host;x-amz-date',
      '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b',
    ],
  ])('a session token %s', (_, method, sessionToken, signedHeaders, signature) => {
    const verifier = verifierOf({ [ID]: credentialOf({ sessionToken }) }, 'service')
    const headers = { 'x-amz-security-token': sessionToken }
    const request = exampleRequest({ method, headers, signedHeaders, signature })
    expect(verify(verifier, request).accessKeyId).toBe(ID)
    expect(refusal(verifierOf(undefined, 'service'), request)[0]).toBe('ACCESS_KEY_UNKNOWN')
  })
})

describe('the signer of the AWS SDK for JavaScript', () => {
  interface Plain {
    readonly method: string
    readonly path: string
    readonly query: Readonly<Record<string, string>>
    readonly headers: Readonly<Record<string, string>>
    readonly body: string
    readonly region: string
    readonly sessionToken: string | undefined
    readonly secret: string
    readonly atMs: number
    /** Whether x-amz-content-sha256 is sent. */
    readonly applyChecksum: boolean
  }

  async function signBySdk(plain: Plain): Promise<Sent> {
    const { sessionToken } = plain
    const signer = new SignatureV4({
      service: 'kms',
      region: plain.region,
      sha256: Sha256,
      applyChecksum: plain.applyChecksum,
      credentials: {
        accessKeyId: ID,
        secretAccessKey: plain.secret,
        ...(sessionToken === undefined ? {} : { sessionToken }),
      },
    })
    const request = await signer.sign(
      {
        method: plain.method,
        protocol: 'http:',
        hostname: 'localhost',
        path: plain.path,
        query: { ...plain.query },
        headers: { host: 'localhost:8790', ...plain.headers },
        body: plain.body,
      },
      { signingDate: new Date(plain.atMs) },
    )
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name.toLowerCase(), value]),
    )
    const query = Object.entries(plain.query)
      .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`)
      .join('&')
    return sent({ ...plain, query, headers, body: Buffer.from(plain.body) })
  }

  const printable = fc.stringMatching(/^[ -~é\t]*$/)
  const plainRequests: fc.Arbitrary<Plain> = fc.record({
    method: fc.constantFrom('POST', 'GET', 'PUT'),
    path: fc.oneof(
      fc.constant('/'),
      fc
        .array(
          fc.oneof(
            fc.constantFrom('', '.', '..'),
            fc.stringMatching(/^[A-Za-z0-9._~!$&'()*+,;=:@%-]{1,8}$/),
          ),
          { minLength: 1, maxLength: 5 },
        )
        .map((segments) => `/${segments.join('/')}`),
    ),
    query: fc.oneof(
      fc.constant({}),
      fc.dictionary(fc.stringMatching(/^[A-Za-z][ -~é]{0,8}$/), printable, { maxKeys: 4 }),
    ),
    // Under names in either case, each once.
    headers: fc
      .uniqueArray(
        fc.tuple(
          fc
            .stringMatching(/^[A-Za-z][A-Za-z0-9!#$&*+.^_`|~-]{0,12}$/)
            .filter((name) => !/^(host|authorization|date|x-amz-.*)$/i.test(name)),
          printable,
        ),
        { maxLength: 12, selector: ([name]) => name.toLowerCase() },
      )
      .map((pairs) => Object.fromEntries(pairs)),
    body: fc.string({ unit: 'binary' }),
    region: fc.constantFrom('us-east-1', 'eu-west-1'),
    sessionToken: fc.option(fc.base64String({ minLength: 4 }), { nil: undefined }),
    secret: fc.stringMatching(/^[A-Za-z0-9+/]{40}$/),
    atMs: fc.integer({ min: Date.UTC(2000), max: Date.UTC(2099) }),
    applyChecksum: fc.boolean(),
  })

  test('is understood in whatever it signs, and in nothing else', async () => {
    await fc.assert(
      fc.asyncProperty(plainRequests, fc.nat(), async (plain, place) => {
        const request = await signBySdk(plain)
        const { secret, sessionToken } = plain
        const verifier = verifierOf({
          [ID]: credentialOf({ secret, ...(sessionToken === undefined ? {} : { sessionToken }) }),
        })
        const { region } = verify(verifier, request, plain.atMs)
        expect(region).toBe(plain.region)
        // Names are lower case and values end without spaces on the wire.
        const names = /SignedHeaders=([^,]*)/.exec(request.header('authorization'))?.[1] ?? ''
        const name = names.split(';')[place % names.split(';').length] ?? ''
        const changed = withHeaders(request, { [name]: `${request.header(name)}!` })
        expect(refusal(verifier, changed, plain.atMs)[0]).not.toBe('ACCEPTED')
        const longer = { ...request, body: Buffer.concat([request.body, Buffer.from(' ')]) }
        expect(refusal(verifier, longer, plain.atMs)[0]).toBe(INVALID)
      }),
      { numRuns: 300 },
    )
  })

  test('gives a region that is the request’s, and the bytes may lie on shared memory', async () => {
    const body = '{"NumberOfBytes":32}'
    const request = await signBySdk({
      method: 'POST',
      path: '/',
      query: {},
      headers: { 'X-Amz-Target': 'TrentService.GenerateRandom' },
      body,
      region: 'eu-west-1',
      sessionToken: undefined,
      secret: SECRET,
      atMs: NOW_MS,
      applyChecksum: true,
    })
    const shared = new Uint8Array(new SharedArrayBuffer(64)).subarray(5, 5 + body.length)
    shared.set(Buffer.from(body))
    expect(verify(verifierOf(), { ...request, body: shared })).toMatchObject({
      region: 'eu-west-1',
      accessKeyId: ID,
    })
  })
})

describe('a signed request', () => {
  const verifier = verifierOf()
  const request = signed()

  test('is accepted as it was signed, again within the window, and with any order and spacing of parameters', () => {
    for (let i = 0; i < 3; i++) expect(verify(verifier, request).accessKeyId).toBe(ID)
    for (const change of [
      (text: string) => text.replaceAll(', ', ','),
      (text: string) => text.replaceAll(', ', ' ,  '),
      (text: string) =>
        text.replace(/ (Credential=\S+), (SignedHeaders=\S+), (\S+)$/, ' $3, $2, $1'),
    ]) {
      expect(refusal(verifier, withAuthorization(request, change))[0]).toBe('ACCEPTED')
    }
  })

  test('is refused when anything of it was changed afterwards', () => {
    const changes: Record<string, Sent> = {
      method: { ...request, method: 'GET' },
      path: { ...request, path: '/x' },
      'path, encoded': { ...request, path: '/%2F' },
      query: { ...request, query: 'x=1' },
      'query without a value': { ...request, query: 'x' },
      body: { ...request, body: Buffer.from('{"KeyId":"alias/b"}') },
      'empty body': { ...request, body: Buffer.alloc(0) },
      host: withHeaders(request, { host: 'kms.eu-west-1.amazonaws.com' }),
      'host’s port': withHeaders(request, { host: 'kms.us-east-1.amazonaws.com:443' }),
      target: withHeaders(request, { 'x-amz-target': 'TrentService.Decrypt' }),
      'a header dropped': withHeaders(request, { 'content-type': undefined }),
      'a header doubled': withHeaders(request, {
        'content-type': 'application/x-amz-json-1.1,application/x-amz-json-1.1',
      }),
      'a second earlier': withHeaders(request, { 'x-amz-date': '20150830T123559Z' }),
      'a second later': withHeaders(request, { 'x-amz-date': '20150830T123601Z' }),
    }
    for (const [name, changed] of Object.entries(changes)) {
      expect(refusal(verifier, changed), name).toEqual(WRONG)
    }
    for (let at = 0; at < request.body.length; at++) {
      const body = Uint8Array.from(request.body)
      body[at] = (body[at] as number) ^ 1
      expect(refusal(verifier, { ...request, body })).toEqual(WRONG)
    }
    // What is not signed may change.
    expect(verify(verifier, withHeaders(request, { 'user-agent': 'x' })).accessKeyId).toBe(ID)
  })

  test('is refused with any character of its signature changed, upper case, longer or shorter', () => {
    const authorization = request.headers['authorization'] ?? ''
    const start = authorization.indexOf('Signature=') + 'Signature='.length
    const signature = authorization.slice(start)
    const resigned = (other: string): Sent =>
      withAuthorization(request, () => authorization.slice(0, start) + other)
    for (let at = 0; at < 64; at++) {
      for (const digit of '0123456789abcdefABCDEF gé') {
        if (digit === signature[at]) continue
        const other = signature.slice(0, at) + digit + signature.slice(at + 1)
        expect(refusal(verifier, resigned(other))[0], other).toBe(INVALID)
      }
    }
    for (const other of [
      signature.toUpperCase(),
      signature.slice(1),
      signature.slice(0, -1),
      `${signature}0`,
      `0${signature}`,
      `0x${signature}`,
      signature + signature,
      Buffer.from(signature, 'hex').toString('base64'),
      'null',
      '0'.repeat(64),
    ]) {
      expect(refusal(verifier, resigned(other)), other).toEqual(WRONG)
    }
  })

  test('is refused with its Authorization cut anywhere, or with any character of it changed', () => {
    const authorization = request.headers['authorization'] ?? ''
    for (let length = 0; length < authorization.length; length++) {
      const [code] = refusal(
        verifier,
        withAuthorization(request, () => authorization.slice(0, length)),
      )
      const expected = length <= 'AWS4-HMAC-SHA256'.length ? 'AUTHENTICATION_MISSING' : INVALID
      expect(code, authorization.slice(0, length)).toBe(expected)
    }
    for (let at = 0; at < authorization.length; at++) {
      const flipped = String.fromCharCode(authorization.charCodeAt(at) ^ 1)
      const changed = authorization.slice(0, at) + flipped + authorization.slice(at + 1)
      const [code] = refusal(
        verifier,
        withAuthorization(request, () => changed),
      )
      expect(['AUTHENTICATION_MISSING', 'ACCESS_KEY_UNKNOWN', INVALID], changed).toContain(code)
    }
  })

  test('is refused where it is not signed at all, or in another scheme', () => {
    const missing = 'AUTHENTICATION_MISSING'
    const scheme = (text: string): Sent => withHeaders(request, { authorization: text })
    expect(refusal(verifier, withHeaders(request, { authorization: undefined }))[0]).toBe(missing)
    for (const text of [
      `Bearer kf_x_y`,
      'Basic QUtJRDpY',
      'AWS AKIDEXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg=',
      'AWS4-ECDSA-P256-SHA256 Credential=x, SignedHeaders=host, Signature=0',
      'aws4-hmac-sha256 Credential=x, SignedHeaders=host, Signature=0',
    ]) {
      expect(refusal(verifier, scheme(text))[0], text).toBe(missing)
    }
  })

  test('in the query string, presigned, is refused and told why', () => {
    const presigned = withHeaders(
      {
        ...request,
        query: `Action=X&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=${'0'.repeat(64)}`,
      },
      { authorization: undefined },
    )
    const [code, detail] = refusal(verifier, presigned)
    expect(code).toBe(INVALID)
    expect(detail).toContain('presigned')
  })

  test('with a parameter missing, doubled or unknown is refused', () => {
    for (const parameter of ['Credential', 'SignedHeaders', 'Signature']) {
      const pattern = new RegExp(`(, )?${parameter}=[^,]+`)
      const without = withAuthorization(request, (text) =>
        text.replace(pattern, '').replace('SHA256 ,', 'SHA256'),
      )
      expect(refusal(verifier, without)).toEqual([
        INVALID,
        `Authorization header requires '${parameter}' parameter.`,
      ])
      const doubled = withAuthorization(
        request,
        (text) => `${text}, ${(pattern.exec(text)?.[0] ?? '').replace(', ', '')}`,
      )
      expect(refusal(verifier, doubled)[0]).toBe(INVALID)
    }
    for (const more of ['Other=1', '__proto__=1', 'toString=1', '', 'Signature']) {
      const changed = withAuthorization(request, (text) => `${text}, ${more}`)
      expect(refusal(verifier, changed)[0], more).toBe(INVALID)
    }
  })
})

describe('signed headers', () => {
  const verifier = verifierOf()

  test('must name host, the date and the operation', () => {
    for (const [signedHeaders, absent] of [
      ['content-type;x-amz-date;x-amz-target', 'host'],
      ['content-type;host;x-amz-target', 'x-amz-date'],
      ['content-type;host;x-amz-date', 'x-amz-target'],
    ] as const) {
      const [code, detail] = refusal(verifier, signed({ signedHeaders }))
      expect(code).toBe(INVALID)
      expect(detail).toBe(`'${absent}' must be a 'SignedHeader'.`)
    }
    expect(
      verify(verifier, signed({ signedHeaders: 'host;x-amz-date;x-amz-target' })),
    ).toBeDefined()
  })

  test('out of order, doubled, in upper case or with an empty name are refused, though signed so', () => {
    for (const signedHeaders of [
      'x-amz-date;host;x-amz-target',
      'host;host;x-amz-date;x-amz-target',
      'Host;x-amz-date;x-amz-target',
      ';host;x-amz-date;x-amz-target',
      'host;x-amz-date;x-amz-target;',
      'host;;x-amz-date;x-amz-target',
      'host; x-amz-date;x-amz-target',
      'host:x;x-amz-date;x-amz-target',
    ]) {
      const [code, detail] = refusal(verifier, signed({ signedHeaders }))
      expect([code, detail], signedHeaders).toEqual([INVALID, expect.stringContaining('in order')])
    }
  })

  test('may be 100 and no more', () => {
    const headers = (count: number): Record<string, string> =>
      Object.fromEntries(
        Array.from({ length: count }, (_, i) => [`a-${String(i).padStart(4, '0')}`, String(i)]),
      )
    // host, content-type, x-amz-date and x-amz-target are four more.
    expect(verify(verifier, signed({ headers: headers(96) })).accessKeyId).toBe(ID)
    for (const count of [97, 1_000]) {
      expect(refusal(verifier, signed({ headers: headers(count) }))[0]).toBe(INVALID)
    }
  })

  test('that are named and not sent are signed as empty: leaving one out does not go unnoticed', () => {
    const request = signed({ headers: { 'x-amz-meta': 'v' } })
    expect(refusal(verifier, withHeaders(request, { 'x-amz-meta': undefined }))).toEqual(WRONG)
  })
})

describe('the body’s hash in x-amz-content-sha256', () => {
  const verifier = verifierOf()
  const body = '{}'
  const hashed = (text: string): Sent => signed({ body, headers: { 'x-amz-content-sha256': text } })

  test('must be that of the body', () => {
    const digest = createHash('sha256').update(body).digest('hex')
    expect(verify(verifier, hashed(digest)).accessKeyId).toBe(ID)
    for (const other of [
      createHash('sha256').update('').digest('hex'),
      digest.toUpperCase(),
      'STREAMING-AWS4-HMAC-SHA256-PAYLOAD',
      'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
      'x',
    ]) {
      const [code, detail] = refusal(verifier, hashed(other))
      expect([code, detail], other).toEqual([INVALID, expect.stringContaining('sha256')])
    }
  })

  test('may not be left to trust', () => {
    const [code, detail] = refusal(verifier, hashed('UNSIGNED-PAYLOAD'))
    expect([code, detail]).toEqual([INVALID, 'the body must be signed'])
  })
})

describe('the time of a signature', () => {
  const verifier = verifierOf()
  const request = signed()

  test('may be five minutes off either way, and the text beyond is AWS’s', () => {
    for (const nowMs of [
      NOW_MS - 5 * MINUTE_MS,
      NOW_MS + 5 * MINUTE_MS,
      NOW_MS + 5 * MINUTE_MS + 999,
    ]) {
      expect(refusal(verifier, request, nowMs)[0]).toBe('ACCEPTED')
    }
    expect(refusal(verifier, request, NOW_MS + 5 * MINUTE_MS + 1_000)).toEqual([
      INVALID,
      'Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T124101Z - 5 min.)',
    ])
    expect(refusal(verifier, request, NOW_MS - 5 * MINUTE_MS - 1)).toEqual([
      INVALID,
      'Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z (20150830T123059Z + 5 min.)',
    ])
  })

  test('crosses midnight with the day it was signed on', () => {
    const late = signed({ signedAt: '20150830T235900Z' })
    expect(verify(verifier, late, Date.UTC(2015, 7, 31, 0, 3)).accessKeyId).toBe(ID)
    const wrongDay = signed({ signedAt: '20150830T235900Z', date: '20150831' })
    const [code, detail] = refusal(verifier, wrongDay, Date.UTC(2015, 7, 31, 0, 3))
    expect([code, detail]).toEqual([
      INVALID,
      'Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: ' +
        "'20150831' != '20150830', from '20150830T235900Z'.",
    ])
    for (const date of ['2015', '2015083', '20150830T', '']) {
      expect(refusal(verifier, signed({ date }))[0], date).toBe(INVALID)
    }
  })

  test('must be one that there is, in the basic format', () => {
    for (const text of [
      '2015-08-30T12:36:00Z',
      '20150830T123600',
      '20150830T123600z',
      '20150830 123600Z',
      '20150830T123660Z',
      '20150830T243600Z',
      '20150230T123600Z',
      '20151330T123600Z',
      ' 20150830T123600Z',
      '1440938160',
      'Sun, 30 Aug 2015 12:36:00 GMT',
      'x',
    ]) {
      const [code, detail] = refusal(verifier, withHeaders(request, { 'x-amz-date': text }))
      expect([code, detail], text).toEqual([INVALID, "Date must be in ISO-8601 'basic format'."])
    }
    const [code, detail] = refusal(verifier, withHeaders(request, { 'x-amz-date': undefined }))
    expect([code, detail]).toEqual([INVALID, expect.stringContaining("'Date' header")])
  })

  test('may stand in Date, in either of its formats, unless x-amz-date is there', () => {
    for (const date of [NOW, 'Sun, 30 Aug 2015 12:36:00 GMT']) {
      const headers = { date, 'x-amz-target': '', 'content-type': '' }
      const plain = signed({ headers, signedHeaders: 'date;host' })
      const dated = withHeaders(plain, { 'x-amz-date': undefined })
      expect(refusal(verifier, dated), date).toEqual(['ACCEPTED', undefined])
      const wrongWeekday = withHeaders(dated, {
        date: date.replace('Sun', 'Mon').replace('T', 't'),
      })
      expect(refusal(verifier, wrongWeekday)[0]).toBe(INVALID)
      // x-amz-date is what counts where both are there.
      expect(refusal(verifier, plain)[0]).toBe(INVALID)
    }
  })
})

describe('the scope of a credential', () => {
  const verifier = verifierOf()

  test.each([
    [
      'of another service',
      { service: 'sts' },
      "Credential should be scoped to correct service: 'kms'.",
    ],
    [
      'of a service in upper case',
      { service: 'KMS' },
      "Credential should be scoped to correct service: 'kms'.",
    ],
    [
      'of a region that is not served',
      { region: 'ap-south-1' },
      'Credential should be scoped to a valid region.',
    ],
    ['without a region', { region: '' }, 'Credential should be scoped to a valid region.'],
    [
      'of another terminator',
      { terminator: 'aws5_request' },
      "Credential should be scoped with a valid terminator: 'aws4_request'.",
    ],
    [
      'with an element more',
      { terminator: 'aws4_request/x' },
      'Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term',
    ],
    [
      'without an access key id',
      { accessKeyId: '' },
      'Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term',
    ],
  ])('%s is refused, though signed so', (_, changes, text) => {
    expect(refusal(verifier, signed(changes))).toEqual([INVALID, text])
  })

  test('cannot be exchanged for that of another region, day or access key', () => {
    const other = credentialOf({ id: 'AKIDOTHER', secret: 'x'.repeat(40) })
    const both = verifierOf({ [ID]: credentialOf(), AKIDOTHER: other })
    const request = signed()
    for (const [from, to] of [
      ['us-east-1', 'eu-west-1'],
      [ID, 'AKIDOTHER'],
    ] as const) {
      const exchanged = withAuthorization(request, (text) => text.replace(from, to))
      expect(refusal(both, exchanged)).toEqual(WRONG)
    }
    const theirs = signed({ accessKeyId: 'AKIDOTHER', secret: 'x'.repeat(40) })
    expect(verify(both, theirs).principal.arn).toContain('AKIDOTHER')
  })
})

describe('an access key', () => {
  test('that is not known is refused as AWS does, signed with whatever', () => {
    const verifier = verifierOf()
    for (const accessKeyId of ['AKIDOTHER', 'toString', '__proto__', ID.toLowerCase(), `${ID} `]) {
      for (const secret of [SECRET, '', 'x']) {
        expect(refusal(verifier, signed({ accessKeyId, secret })), accessKeyId).toEqual([
          'ACCESS_KEY_UNKNOWN',
          undefined,
        ])
      }
    }
  })

  test('is looked up for every request: one that was revoked is refused at the next, between headers and body too', () => {
    const credentials: Record<string, SigningCredential> = { [ID]: credentialOf() }
    const verifier = verifierOf(credentials)
    const request = signed()
    expect(verify(verifier, request).accessKeyId).toBe(ID)
    const claim = verifier.read(request, NOW_MS)
    delete credentials[ID]
    expect(refusal(verifier, request)[0]).toBe('ACCESS_KEY_UNKNOWN')
    expect(() => verifier.verify(claim, request.body)).toThrow(KeyfoldError)
    // Nor does what was derived from one secret serve for another.
    credentials[ID] = credentialOf({ secret: 'other' })
    expect(refusal(verifier, request)).toEqual(WRONG)
    expect(verify(verifier, signed({ secret: 'other' })).accessKeyId).toBe(ID)
  })

  test('opens its secret once for each day and region, and the copy is zeros afterwards', () => {
    const known = credentialOf()
    const verifier = verifierOf({ [ID]: known })
    for (let i = 0; i < 3; i++) {
      verify(verifier, signed())
      verify(verifier, signed({ region: 'eu-west-1' }))
      const nextDay = signed({ signedAt: '20150831T123600Z' })
      verify(verifier, nextDay, NOW_MS + 24 * 60 * MINUTE_MS)
      expect(refusal(verifier, signed({ secret: 'wrong' }))).toEqual(WRONG)
    }
    expect(known.opened).toHaveLength(3)
    for (const copy of known.opened) expect(copy).toEqual(new Uint8Array(SECRET.length))
    verifier.forget()
    verify(verifier, signed())
    expect(known.opened).toHaveLength(4)
  })

  test('keeps a bounded number of signing keys, whatever is asked for', () => {
    const first = credentialOf()
    const credentials: Record<string, Known> = { [ID]: first }
    for (let i = 0; i < 4_096; i++) credentials[`AKID${i}`] = credentialOf({ id: `AKID${i}` })
    const verifier = verifierOf(credentials)
    for (const accessKeyId of Object.keys(credentials)) verify(verifier, signed({ accessKeyId }))
    verify(verifier, signed())
    expect(first.opened).toHaveLength(2)
    expect(credentials['AKID4095']?.opened).toHaveLength(1)
    // Those who guess ids push nobody out.
    for (let i = 0; i < 5_000; i++) refusal(verifier, signed({ accessKeyId: `GUESS${i}` }))
    verify(verifier, signed())
    expect(first.opened).toHaveLength(2)
  })

  test('with an end is refused from that millisecond on, and only whoever signed learns of it', () => {
    const verifier = verifierOf({ [ID]: credentialOf({ expiresAtMs: NOW_MS + 1 }) })
    expect(refusal(verifier, signed(), NOW_MS)[0]).toBe('ACCEPTED')
    expect(refusal(verifier, signed(), NOW_MS + 1)[0]).toBe('SESSION_EXPIRED')
    expect(refusal(verifier, signed({ secret: 'x' }), NOW_MS + 1)).toEqual(WRONG)
  })

  test('of a session needs its token, and no other; a long-lived one takes none', () => {
    const sessionToken = 'FwoGZXIvYXdzEXAMPLE=='
    const verifier = verifierOf({ [ID]: credentialOf({ sessionToken }), AKIDLONG: credentialOf() })
    const withToken = (token: string, accessKeyId = ID): Sent =>
      signed({ accessKeyId, headers: { 'x-amz-security-token': token } })
    expect(verify(verifier, withToken(sessionToken)).accessKeyId).toBe(ID)
    const unknown = ['ACCESS_KEY_UNKNOWN', undefined]
    for (const token of [
      '',
      'x',
      sessionToken.slice(0, -1),
      `${sessionToken}=`,
      sessionToken.toLowerCase(),
    ]) {
      expect(refusal(verifier, withToken(token)), token).toEqual(unknown)
    }
    expect(refusal(verifier, signed())).toEqual(unknown)
    expect(refusal(verifier, withToken(sessionToken, 'AKIDLONG'))).toEqual(unknown)
    expect(refusal(verifier, signed({ accessKeyId: 'AKIDLONG' }))[0]).toBe('ACCEPTED')
    // Added after signing, as AWS allows, it counts the same.
    const added = withHeaders(signed(), { 'x-amz-security-token': sessionToken })
    expect(refusal(verifier, added)[0]).toBe('ACCEPTED')
  })

  test('is answered by what looking it up throws: a server that is locked says so', () => {
    const verifier = new SignatureVerifier({
      service: 'kms',
      regions: new Set(['us-east-1']),
      lookUp: () => {
        throw new KeyfoldError('LOCKED')
      },
    })
    expect(refusal(verifier, signed())[0]).toBe('LOCKED')
  })
})
