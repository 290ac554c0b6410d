/** Errors of ours as the external key store proxy API names them ("Error codes"). */
import { ERRORS, type ErrorCode, type KeyfoldError } from '../../errors.ts'
import { XKS_ERRORS, type XksErrorName } from '../../format/xks-protocol.ts'
import { XKS_ERROR_CHARACTERS_MAX } from '../../limits.ts'

/** What is not here is a ValidationException where the caller is to blame, and else an InternalException. */
const NAMES: Readonly<Partial<Record<ErrorCode, XksErrorName>>> = {
  DECRYPT_FAILED: 'InvalidCiphertextException',

  UNAUTHENTICATED: 'AuthenticationFailedException',
  AUTHENTICATION_MISSING: 'AuthenticationFailedException',
  ACCESS_KEY_UNKNOWN: 'AuthenticationFailedException',
  SESSION_EXPIRED: 'AuthenticationFailedException',
  REQUEST_SIGNATURE_INVALID: 'AuthenticationFailedException',

  ROUTE_NOT_FOUND: 'InvalidUriPathException',
  // One answer for both: a proxy's principal does not learn which keys there are besides its own. AccessDeniedException
  // is for what a proxy decides by requestMetadata, and ours decides nothing by it.
  KMS_KEY_NOT_FOUND: 'KeyNotFoundException',
  ACCESS_DENIED: 'KeyNotFoundException',
  KMS_KEY_USAGE_INVALID: 'InvalidKeyUsageException',
  KMS_KEY_DISABLED: 'InvalidStateException',
  KMS_KEY_STATE_INVALID: 'InvalidStateException',
  LOCKED: 'InvalidStateException',

  // Also what is longer than we take, as long as it is longer than the API asks for.
  REQUEST_TOO_LARGE: 'UnsupportedOperationException',
  OPERATION_UNSUPPORTED: 'UnsupportedOperationException',

  OVERLOADED: 'ThrottlingException',
  MISS_BUDGET_SPENT: 'ThrottlingException',
  KEY_STORE_UNREACHABLE: 'DependencyTimeoutException',
  CATALOG_UNAVAILABLE: 'DependencyTimeoutException',
  AUDIT_UNAVAILABLE: 'DependencyTimeoutException',
}

const NO_SUCH_KEY =
  'there is no such key, or no policy lets the principal of this prefix describe it'

export interface XksRefusal {
  readonly status: number
  readonly errorName: XksErrorName
  readonly errorMessage: string
}

export function refusalOf({ code, detail }: KeyfoldError): XksRefusal {
  const { status: ours, message } = ERRORS[code]
  const errorName = NAMES[code] ?? (ours < 500 ? 'ValidationException' : 'InternalException')
  // A wrong method is the one refusal with a status of its own and no name.
  const status = code === 'METHOD_NOT_ALLOWED' ? ours : XKS_ERRORS[errorName]
  const told = errorName === 'KeyNotFoundException' ? NO_SUCH_KEY : (detail ?? message)
  const errorMessage = told.replace(/[^ -~]/g, '?').slice(0, XKS_ERROR_CHARACTERS_MAX)
  return { status, errorName, errorMessage }
}
