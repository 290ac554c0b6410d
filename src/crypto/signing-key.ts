/**
 * The parts of AWS Signature Version 4 that signer and verifier share: the key of one day, region and service, the
 * string that is signed, and how a moment is spelt in it (AWS General Reference, "Create a signed AWS API request").
 */
import { createHmac, hash, type KeyObject } from 'node:crypto'

export const SIGNING_ALGORITHM = 'AWS4-HMAC-SHA256'
export const SCOPE_TERMINATOR = 'aws4_request'

export interface SigningScope {
  /** YYYYMMDD */
  readonly date: string
  readonly region: string
  readonly service: string
}

/** DATE/REGION/SERVICE/aws4_request */
export function scopeText({ date, region, service }: SigningScope): string {
  return `${date}/${region}/${service}/${SCOPE_TERMINATOR}`
}

/** Whoever is given it fills it with zeros. */
export function deriveSigningKey(secret: Uint8Array, scope: SigningScope): Buffer {
  let key = Buffer.concat([Buffer.from('AWS4'), secret])
  for (const step of [scope.date, scope.region, scope.service, SCOPE_TERMINATOR]) {
    const next = createHmac('sha256', key).update(step).digest()
    key.fill(0)
    key = next
  }
  return key
}

/** 64 hex digits. */
export function signatureOf(
  signingKey: Uint8Array | KeyObject,
  request: { readonly signedAt: string; readonly scope: string; readonly canonical: string },
): string {
  const { signedAt, scope, canonical } = request
  const canonicalHash = hash('sha256', canonical, 'hex')
  return createHmac('sha256', signingKey)
    .update(`${SIGNING_ALGORITHM}\n${signedAt}\n${scope}\n${canonicalHash}`)
    .digest('hex')
}

/** YYYYMMDDTHHMMSSZ, which is what x-amz-date holds. */
export function basicTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`
}
