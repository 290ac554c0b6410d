/** Why a key store could not be connected, as AWS KMS names it (CustomKeyStoresListEntry, "ConnectionErrorCode"). */
import type { KeyStoreKind } from '../catalog/key-stores.ts'
import { KeyfoldError, type ErrorCode } from '../errors.ts'

export type ConnectionErrorCode =
  | 'INVALID_CREDENTIALS'
  | 'CLUSTER_NOT_FOUND'
  | 'NETWORK_ERRORS'
  | 'INTERNAL_ERROR'
  | 'XKS_PROXY_ACCESS_DENIED'
  | 'XKS_PROXY_NOT_REACHABLE'
  | 'XKS_PROXY_INVALID_RESPONSE'
  | 'XKS_PROXY_INVALID_CONFIGURATION'

interface ConnectionError {
  readonly code: ConnectionErrorCode
  /** Whether the same attempt may succeed later. */
  readonly passes: boolean
}

const ERROR_CODES: Partial<Record<ErrorCode, ConnectionErrorCode>> = {
  KEY_STORE_UNREACHABLE: 'NETWORK_ERRORS',
  KEY_STORE_CREDENTIAL_INCORRECT: 'INVALID_CREDENTIALS',
  HSM_NOT_FOUND: 'CLUSTER_NOT_FOUND',
  XKS_PROXY_UNREACHABLE: 'XKS_PROXY_NOT_REACHABLE',
  XKS_PROXY_CREDENTIAL_INCORRECT: 'XKS_PROXY_ACCESS_DENIED',
  XKS_PROXY_RESPONSE_INVALID: 'XKS_PROXY_INVALID_RESPONSE',
  XKS_PROXY_CONFIGURATION_INVALID: 'XKS_PROXY_INVALID_CONFIGURATION',
}

export function connectionErrorOf(kind: KeyStoreKind, error: unknown): ConnectionError {
  const known = error instanceof KeyfoldError ? ERROR_CODES[error.code] : undefined
  const code = known ?? 'INTERNAL_ERROR'
  const passes = code === 'NETWORK_ERRORS' || code === 'XKS_PROXY_NOT_REACHABLE'
  // AWS KMS has a word of its own for the same.
  if (kind === 'xks' && code === 'NETWORK_ERRORS') {
    return { code: 'XKS_PROXY_NOT_REACHABLE', passes }
  }
  return { code, passes }
}
