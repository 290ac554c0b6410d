/** What AWS KMS, or the way to it, refuses: in our codes. Names of errors are told on, their texts are not. */
import { KeyfoldError } from '../errors.ts'

interface SdkError {
  readonly name: string
  readonly $metadata?: { readonly httpStatusCode?: number }
}

/** One error for every ciphertext that does not open (errors.ts). */
const UNDECRYPTABLE: ReadonlySet<string> = new Set([
  'InvalidCiphertextException',
  'IncorrectKeyException',
])
/** Answered with 400, and a moment later with something else. */
const PASSING: ReadonlySet<string> = new Set([
  'ThrottlingException',
  'Throttling',
  'TooManyRequestsException',
  'RequestLimitExceeded',
  'DependencyTimeoutException',
  'KeyUnavailableException',
  'KMSInternalException',
])
/** It does not know us, or does not believe it. */
const CREDENTIALS: ReadonlySet<string> = new Set([
  'CredentialsProviderError',
  'UnrecognizedClientException',
  'InvalidClientTokenId',
  'InvalidSignatureException',
  'SignatureDoesNotMatch',
  'ExpiredTokenException',
])
const NAME_PATTERN = /^[A-Za-z]{1,64}$/

export function awsKmsError(cause: unknown): KeyfoldError {
  if (cause instanceof KeyfoldError) return cause
  const { name, $metadata } = cause as SdkError
  const detail = NAME_PATTERN.test(name) ? name : undefined
  if (UNDECRYPTABLE.has(name)) return new KeyfoldError('DECRYPT_FAILED', undefined, cause)
  const status = $metadata?.httpStatusCode ?? 0
  // Found on this machine or not at all: nothing was asked.
  const refused = name === 'CredentialsProviderError' || (status >= 400 && status < 500)
  if (!refused || status === 429 || PASSING.has(name)) {
    return new KeyfoldError('KEY_STORE_UNREACHABLE', detail, cause)
  }
  // Disabled, deleted, forbidden, made for something else; or our credentials are wrong.
  return new KeyfoldError('KEY_STORE_REFUSED', detail, cause)
}

export function isCredentialRefusal({ detail = '' }: KeyfoldError): boolean {
  return CREDENTIALS.has(detail)
}
