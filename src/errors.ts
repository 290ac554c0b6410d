/**
 * Everything that can go wrong, in one table. `code` is API and never changes; `message` is for people and may.
 *
 * A message holds no plaintext, key material or context values. One error stands for every reason a ciphertext
 * does not open: telling a caller which check failed would make an oracle (reference: partitioning oracles,
 * eprint 2020/1491).
 */

interface ErrorKind {
  /** HTTP status. */
  readonly status: number
  /** What AWS KMS calls it on its wire. */
  readonly aws: string
  /** Whether the same request may succeed a moment later. Clients retry these and no others. */
  readonly retryable: boolean
  readonly message: string
}

const kind = (status: number, aws: string, message: string): ErrorKind => ({
  status,
  aws,
  message,
  retryable: status === 503 || status === 429,
})

export const ERRORS = {
  // What a caller sent.
  REQUEST_MALFORMED: kind(400, 'ValidationException', 'the request is malformed'),
  REQUEST_TOO_LARGE: kind(
    413,
    'ValidationException',
    'the request is larger than the server accepts',
  ),
  LIMIT_EXCEEDED: kind(400, 'LimitExceededException', 'a limit is exceeded'),
  ROUTE_NOT_FOUND: kind(404, 'UnknownOperationException', 'there is no such route'),
  METHOD_NOT_ALLOWED: kind(405, 'UnknownOperationException', 'this route takes another method'),
  MEDIA_TYPE_UNSUPPORTED: kind(
    415,
    'ValidationException',
    'send application/msgpack or application/json',
  ),
  CONTEXT_INVALID: kind(400, 'ValidationException', 'the encryption context is not valid'),

  // Who sent it.
  UNAUTHENTICATED: kind(401, 'UnrecognizedClientException', 'a valid bearer token is required'),
  ACCESS_DENIED: kind(403, 'AccessDeniedException', 'the caller may not do this with this key'),

  // Ciphertexts. MESSAGE_MALFORMED says only that the bytes are not of any form we write; it involves no key.
  DECRYPT_FAILED: kind(400, 'InvalidCiphertextException', 'the message could not be decrypted'),
  MESSAGE_MALFORMED: kind(400, 'InvalidCiphertextException', 'this is not a keyfold message'),
  KEY_ENTRIES_INVALID: kind(400, 'ValidationException', 'the key entries are not valid'),

  // Files and streams. STREAM_MALFORMED involves no key: form, order, and the end that is missing.
  STREAM_MALFORMED: kind(
    400,
    'InvalidCiphertextException',
    'this is not a whole message of the AWS Encryption SDK',
  ),
  COMMITMENT_REQUIRED: kind(
    400,
    'ValidationException',
    'the commitment policy does not allow the algorithm suite of the message',
  ),

  // KMS keys.
  KMS_KEY_NOT_FOUND: kind(404, 'NotFoundException', 'there is no such KMS key'),
  KMS_KEY_DISABLED: kind(409, 'DisabledException', 'the KMS key is disabled'),
  KMS_KEY_STATE_INVALID: kind(
    409,
    'KMSInvalidStateException',
    'the state of the KMS key forbids this',
  ),
  KMS_KEY_ROTATING: kind(
    409,
    'ConflictException',
    'another rotation of the KMS key is under way or about to begin',
  ),
  REPLICA_EXISTS: kind(
    409,
    'AlreadyExistsException',
    'the region has a replica of the KMS key already',
  ),
  ALIAS_EXISTS: kind(409, 'AlreadyExistsException', 'an alias of that name exists'),
  ALIAS_NOT_FOUND: kind(404, 'NotFoundException', 'there is no such alias'),
  ALIAS_INVALID: kind(400, 'InvalidAliasNameException', 'the alias name is not valid'),
  TAG_INVALID: kind(400, 'TagException', 'a tag is not valid'),
  TOKEN_NOT_FOUND: kind(404, 'NotFoundException', 'there is no such token'),
  ACCESS_KEY_NOT_FOUND: kind(404, 'NotFoundException', 'there is no such access key'),
  KMS_KEY_INCORRECT: kind(
    400,
    'IncorrectKeyException',
    'the ciphertext was not made under this KMS key',
  ),
  KMS_KEY_USAGE_INVALID: kind(
    400,
    'InvalidKeyUsageException',
    'the KMS key is not for this operation',
  ),
  KMS_KEY_UNAVAILABLE: kind(500, 'KeyUnavailableException', 'the KMS key is not available'),
  OPERATION_UNSUPPORTED: kind(
    400,
    'UnsupportedOperationException',
    'this operation is not supported for the KMS key',
  ),
  ARN_INVALID: kind(400, 'InvalidArnException', 'the ARN is not valid'),
  MARKER_INVALID: kind(400, 'InvalidMarkerException', 'the marker is none that a list gave'),
  SIGNATURE_INVALID: kind(400, 'KMSInvalidSignatureException', 'the signature does not verify'),
  MAC_INVALID: kind(400, 'KMSInvalidMacException', 'the MAC does not verify'),
  DRY_RUN: kind(
    400,
    'DryRunOperationException',
    'The request would have succeeded, but the DryRun option is set.',
  ),

  // Policies and grants.
  POLICY_MALFORMED: kind(
    400,
    'MalformedPolicyDocumentException',
    'the policy document is not valid',
  ),
  POLICY_NOT_FOUND: kind(404, 'NotFoundException', 'there is no such policy'),
  GRANT_NOT_FOUND: kind(404, 'NotFoundException', 'there is no such grant'),
  GRANT_ID_INVALID: kind(400, 'InvalidGrantIdException', 'the grant id is not valid'),
  GRANT_TOKEN_INVALID: kind(400, 'InvalidGrantTokenException', 'the grant token is not valid'),

  // Imported key material.
  IMPORT_TOKEN_INVALID: kind(
    400,
    'InvalidImportTokenException',
    'the import token is none that was given for this KMS key',
  ),
  IMPORT_TOKEN_EXPIRED: kind(400, 'ExpiredImportTokenException', 'the import token has expired'),
  KEY_MATERIAL_INCORRECT: kind(
    400,
    'IncorrectKeyMaterialException',
    'this is not the key material that was imported before, or it is of the wrong length',
  ),

  // Key stores beside the local one.
  KEY_STORE_NOT_FOUND: kind(404, 'CustomKeyStoreNotFoundException', 'there is no such key store'),
  KEY_STORE_NAME_IN_USE: kind(
    409,
    'CustomKeyStoreNameInUseException',
    'another key store has that name',
  ),
  KEY_STORE_STATE_INVALID: kind(
    409,
    'CustomKeyStoreInvalidStateException',
    'the connection state of the key store forbids this',
  ),
  KEY_STORE_HAS_KEYS: kind(
    409,
    'CustomKeyStoreHasCMKsException',
    'the key store contains KMS keys, which are deleted first, each after its waiting period',
  ),
  HSM_NOT_FOUND: kind(
    404,
    'CloudHsmClusterNotFoundException',
    'no PKCS#11 module of that name is configured',
  ),
  HSM_IN_USE: kind(
    409,
    'CloudHsmClusterInUseException',
    'another key store uses that PKCS#11 module',
  ),
  HSM_NOT_ACTIVE: kind(
    409,
    'CloudHsmClusterNotActiveException',
    'the PKCS#11 module of the key store is not configured any more',
  ),
  KEY_STORE_CREDENTIAL_INCORRECT: kind(
    400,
    'CloudHsmClusterInvalidConfigurationException',
    'the other side does not take the credential of the key store',
  ),
  XKS_PROXY_URI_IN_USE: kind(
    409,
    'XksProxyUriInUseException',
    'another key store uses that endpoint and path',
  ),
  XKS_PROXY_UNREACHABLE: kind(
    400,
    'XksProxyUriUnreachableException',
    'the external key store proxy could not be reached',
  ),
  XKS_PROXY_CREDENTIAL_INCORRECT: kind(
    400,
    'XksProxyIncorrectAuthenticationCredentialException',
    'the external key store proxy does not take the authentication credential',
  ),
  XKS_PROXY_RESPONSE_INVALID: kind(
    400,
    'XksProxyInvalidResponseException',
    'the external key store proxy answered what it must not',
  ),
  XKS_PROXY_CONFIGURATION_INVALID: kind(
    400,
    'XksProxyInvalidConfigurationException',
    'the external key store proxy is not configured for this',
  ),
  XKS_KEY_NOT_FOUND: kind(
    404,
    'XksKeyNotFoundException',
    'the external key store proxy knows no such external key',
  ),
  XKS_KEY_IN_USE: kind(
    409,
    'XksKeyAlreadyInUseException',
    'another KMS key of the key store uses that external key',
  ),
  XKS_KEY_INVALID_CONFIGURATION: kind(
    400,
    'XksKeyInvalidConfigurationException',
    'the external key is not what a KMS key needs: enabled, AES of 256 bits, for encryption and decryption',
  ),

  // The AWS protocol's own.
  OPERATION_UNKNOWN: kind(400, 'UnknownOperationException', 'there is no such operation'),
  SERIALIZATION_INVALID: kind(
    400,
    'SerializationException',
    'the request is no JSON of the shape that the operation takes',
  ),
  AUTHENTICATION_MISSING: kind(
    400,
    'MissingAuthenticationTokenException',
    'the request is not signed',
  ),
  ACCESS_KEY_UNKNOWN: kind(
    400,
    'UnrecognizedClientException',
    'The security token included in the request is invalid.',
  ),
  SESSION_EXPIRED: kind(
    400,
    'ExpiredTokenException',
    'The security token included in the request is expired',
  ),
  REQUEST_SIGNATURE_INVALID: kind(
    400,
    'InvalidSignatureException',
    'The request signature we calculated does not match the signature you provided.',
  ),

  // The service itself.
  KEY_TABLE_FULL: kind(503, 'KMSInternalException', 'the key table is full'),
  KEY_HANDLE_STALE: kind(
    503,
    'KMSInternalException',
    'the key was wiped while the request used it',
  ),
  KEY_STORE_UNREACHABLE: kind(503, 'DependencyTimeoutException', 'the key store did not answer'),
  KEY_STORE_REFUSED: kind(
    409,
    'KMSInvalidStateException',
    'the key store does not let its key be used',
  ),
  MISS_BUDGET_SPENT: kind(
    429,
    'ThrottlingException',
    'too many data keys were asked for that no cache holds',
  ),
  WRAP_BUDGET_SPENT: kind(
    409,
    'KMSInvalidStateException',
    'the key material has wrapped as many keys as it may',
  ),
  WORKER_FAILED: kind(
    503,
    'KMSInternalException',
    'a worker failed; nothing of the batch was kept',
  ),
  OVERLOADED: kind(503, 'ThrottlingException', 'the server has all the work it will hold'),
  SHUTTING_DOWN: kind(503, 'KMSInternalException', 'the server is shutting down'),
  LOCKED: kind(503, 'KMSInternalException', 'the server was locked and holds no keys'),
  INTERNAL: kind(
    500,
    'KMSInternalException',
    'the server failed; its log has the reason under this request id',
  ),

  // Start-up and operators.
  CONFIG_INVALID: kind(400, 'ValidationException', 'the configuration is not valid'),
  ROOT_KEY_INVALID: kind(
    500,
    'KMSInternalException',
    'the root key does not open this data directory',
  ),
  NATIVE_UNAVAILABLE: kind(
    500,
    'KMSInternalException',
    'the native addon is required and could not be loaded',
  ),
  AUDIT_UNAVAILABLE: kind(503, 'KMSInternalException', 'the audit log does not take the record'),
  CATALOG_UNAVAILABLE: kind(503, 'DependencyTimeoutException', 'the catalog did not answer'),

  // The client library's own.
  CONNECTION_FAILED: kind(503, 'KMSInternalException', 'the server could not be reached'),
  ABORTED: kind(400, 'ValidationException', 'the caller gave the request up'),
} as const satisfies Record<string, ErrorKind>

export type ErrorCode = keyof typeof ERRORS

/** Codes that stand for one message's failure inside a batch, and travel as `errors: [[index, code]]`. */
export type MessageErrorCode =
  | 'DECRYPT_FAILED'
  | 'MESSAGE_MALFORMED'
  | 'ACCESS_DENIED'
  | 'KMS_KEY_DISABLED'
  | 'KMS_KEY_STATE_INVALID'
  | 'KEY_STORE_UNREACHABLE'
  | 'KEY_STORE_REFUSED'
  | 'MISS_BUDGET_SPENT'
  | 'KEY_TABLE_FULL'
  | 'ROOT_KEY_INVALID'
  | 'CATALOG_UNAVAILABLE'

/**
 * An error with a code from the table. `detail` names the field and the limit, and is shown to the caller;
 * `cause` never leaves the process.
 */
export class KeyfoldError extends Error {
  override readonly name = 'KeyfoldError'
  readonly code: ErrorCode
  /** What was wrong in particular, without the table's message. */
  readonly detail: string | undefined
  /** Under which the log of the server that refused knows it; undefined where none did. */
  readonly requestId: string | undefined

  constructor(code: ErrorCode, detail?: string, cause?: unknown, requestId?: string) {
    const message = ERRORS[code].message
    super(
      detail === undefined ? message : `${message}: ${detail}`,
      cause === undefined ? undefined : { cause },
    )
    this.code = code
    this.detail = detail
    this.requestId = requestId
  }

  get status(): number {
    return ERRORS[this.code].status
  }

  get retryable(): boolean {
    return ERRORS[this.code].retryable
  }
}

/** With what is behind it, for operators: of what a caller is told the reason is often nobody else's business. */
export function reasonOf(error: unknown): string {
  const reasons: string[] = []
  for (let cause = error; cause !== undefined; cause = (cause as Error).cause) {
    // Several addresses were tried, and none answered: each says why.
    if (cause instanceof AggregateError) reasons.push(...cause.errors.map(reasonOf))
    else reasons.push(cause instanceof Error ? cause.message : String(cause))
  }
  return [...new Set(reasons)].join(': ')
}
