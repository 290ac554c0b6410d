/** Why a key store could not be connected, as AWS KMS names it (CustomKeyStoresListEntry, "ConnectionErrorCode"). */
import type { KeyStoreKind } from '../catalog/key-stores.ts'
import { KeyfoldError, type ErrorCode } from '../errors.ts'
import { faultOf, type Fault } from '../key-stores/store-fault.ts'

export type ConnectionErrorCode =
  | 'INVALID_CREDENTIALS'
  | 'CLUSTER_NOT_FOUND'
  | 'INSUFFICIENT_CLOUDHSM_HSMS'
  | 'USER_LOCKED_OUT'
  | 'USER_NOT_FOUND'
  | 'NETWORK_ERRORS'
  | 'INTERNAL_ERROR'
  | 'XKS_PROXY_ACCESS_DENIED'
  | 'XKS_PROXY_NOT_REACHABLE'
  | 'XKS_PROXY_TIMED_OUT'
  | 'XKS_PROXY_INVALID_TLS_CONFIGURATION'
  | 'XKS_PROXY_INVALID_RESPONSE'
  | 'XKS_PROXY_INVALID_CONFIGURATION'

interface ConnectionError {
  readonly code: ConnectionErrorCode
  /** Whether the same attempt may succeed later, and does no harm. */
  readonly passes: boolean
}

/** What is known of it, and what creating or updating an XKS store with it is refused with. */
const FAULTS: Readonly<Record<Fault, readonly [ConnectionErrorCode, ErrorCode]>> = {
  'timed-out': ['XKS_PROXY_TIMED_OUT', 'XKS_PROXY_UNREACHABLE'],
  tls: ['XKS_PROXY_INVALID_TLS_CONFIGURATION', 'XKS_PROXY_UNREACHABLE'],
  credential: ['INVALID_CREDENTIALS', 'XKS_PROXY_CREDENTIAL_INCORRECT'],
  'access-denied': ['XKS_PROXY_ACCESS_DENIED', 'XKS_PROXY_CONFIGURATION_INVALID'],
  configuration: ['XKS_PROXY_INVALID_CONFIGURATION', 'XKS_PROXY_CONFIGURATION_INVALID'],
  response: ['XKS_PROXY_INVALID_RESPONSE', 'XKS_PROXY_RESPONSE_INVALID'],
  'token-missing': ['INSUFFICIENT_CLOUDHSM_HSMS', 'KEY_STORE_UNREACHABLE'],
  'user-locked': ['USER_LOCKED_OUT', 'KEY_STORE_CREDENTIAL_INCORRECT'],
  'user-missing': ['USER_NOT_FOUND', 'KEY_STORE_CREDENTIAL_INCORRECT'],
}

const ERROR_CODES: Partial<Record<ErrorCode, ConnectionErrorCode>> = {
  KEY_STORE_UNREACHABLE: 'NETWORK_ERRORS',
  KEY_STORE_CREDENTIAL_INCORRECT: 'INVALID_CREDENTIALS',
  HSM_NOT_FOUND: 'CLUSTER_NOT_FOUND',
}

export function connectionErrorOf(kind: KeyStoreKind, error: unknown): ConnectionError {
  return { code: codeOf(kind, error), passes: isAway(error) }
}

function codeOf(kind: KeyStoreKind, error: unknown): ConnectionErrorCode {
  const fault = faultOf(error)
  if (fault !== undefined) return FAULTS[fault][0]
  const known = error instanceof KeyfoldError ? ERROR_CODES[error.code] : undefined
  // AWS KMS has a word of its own for the same.
  if (kind === 'xks' && known === 'NETWORK_ERRORS') return 'XKS_PROXY_NOT_REACHABLE'
  return known ?? 'INTERNAL_ERROR'
}

/** What trying an XKS proxy is refused with, where it failed with `error`. */
export function proxyErrorOf(error: unknown): unknown {
  const fault = faultOf(error)
  if (fault !== undefined) return new KeyfoldError(FAULTS[fault][1], detailOf(error), error)
  return isAway(error) ? new KeyfoldError('XKS_PROXY_UNREACHABLE', undefined, error) : error
}

/** An HSM locks its user out who tries too often: a PIN that it refuses has another code. */
function isAway(error: unknown): boolean {
  return error instanceof KeyfoldError && error.code === 'KEY_STORE_UNREACHABLE'
}

function detailOf(error: unknown): string | undefined {
  return error instanceof KeyfoldError ? error.detail : undefined
}
