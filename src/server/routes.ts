/**
 * The routes, as data: method, path and what answers. Limits and authentication are enforced in one place, server.ts,
 * for all of them.
 */
import type { OperationName } from '../format/requests.ts'
import * as grants from './grants.ts'
import * as keyStores from './key-stores.ts'
import * as lifecycle from './lifecycle.ts'
import * as management from './management.ts'
import type { ManagementHandler } from './management.ts'
import * as policies from './policies.ts'
import type { StreamOperation } from './streams/parameters.ts'

export type Method = 'get' | 'post' | 'put' | 'del'

export type Route =
  /** An operation of the batch API: the body goes to the envelope as it lies. */
  | { readonly kind: 'operation'; readonly path: string; readonly op: OperationName | 'batch' }
  /** A stream: the body goes through as it comes, in the AWS Encryption SDK's message format. */
  | {
      readonly kind: 'stream'
      readonly method: 'put' | 'post'
      readonly path: string
      readonly op: StreamOperation
    }
  /** Management: a small map in, a small map out. `:name` in the path is handed to the handler. */
  | {
      readonly kind: 'management'
      readonly method: Method
      readonly path: string
      /** As records name it: AWS KMS's name where it has one. */
      readonly operation: string
      readonly handler: ManagementHandler
      /** What its map may have; anything else is refused by name. */
      readonly fields: readonly string[]
      /** Answered also when every key is wiped. */
      readonly whenLocked?: boolean
    }

const KEY_STORE_FIELDS = ['settings', 'secret', 'keepsOpenKeys'] as const

export const ROUTES: readonly Route[] = [
  { kind: 'operation', path: '/v1/encrypt', op: 'encrypt' },
  { kind: 'operation', path: '/v1/decrypt', op: 'decrypt' },
  { kind: 'operation', path: '/v1/re-encrypt', op: 're-encrypt' },
  { kind: 'operation', path: '/v1/data-keys', op: 'data-keys' },
  { kind: 'operation', path: '/v1/message-keys', op: 'message-keys' },
  { kind: 'operation', path: '/v1/batch', op: 'batch' },

  // PUT is what curl sends a file with.
  { kind: 'stream', method: 'put', path: '/v1/streams/encrypt', op: 'encrypt' },
  { kind: 'stream', method: 'post', path: '/v1/streams/encrypt', op: 'encrypt' },
  { kind: 'stream', method: 'put', path: '/v1/streams/decrypt', op: 'decrypt' },
  { kind: 'stream', method: 'post', path: '/v1/streams/decrypt', op: 'decrypt' },

  manage('post', '/v1/keys', 'CreateKey', management.createKey, [
    'description',
    'alias',
    'tags',
    'keyStore',
    'externalKeyId',
  ]),
  manage('get', '/v1/keys', 'ListKeys', management.listKeys),
  manage('get', '/v1/keys/:name', 'DescribeKey', management.describeKey),
  manage('post', '/v1/keys/:name/enable', 'EnableKey', management.enableKey),
  manage('post', '/v1/keys/:name/disable', 'DisableKey', management.disableKey),
  manage('post', '/v1/keys/:name/rotate', 'RotateKeyOnDemand', management.rotateKey),
  manage('get', '/v1/keys/:name/policy', 'GetKeyPolicy', policies.getKeyPolicy),
  manage('put', '/v1/keys/:name/policy', 'PutKeyPolicy', policies.putKeyPolicy, [
    'policy',
    'bypassPolicyLockoutSafetyCheck',
  ]),
  manage('get', '/v1/identity-policies', 'ListIdentityPolicies', policies.listIdentityPolicies),
  manage('get', '/v1/identity-policies/:name', 'GetIdentityPolicy', policies.getIdentityPolicy),
  manage('put', '/v1/identity-policies/:name', 'PutIdentityPolicy', policies.putIdentityPolicy, [
    'principal',
    'policy',
  ]),
  manage(
    'del',
    '/v1/identity-policies/:name',
    'DeleteIdentityPolicy',
    policies.deleteIdentityPolicy,
  ),
  manage('post', '/v1/policy/explain', 'ExplainPolicy', policies.explainPolicy, [
    'principal',
    'action',
    'key',
    'context',
  ]),
  manage('post', '/v1/keys/:name/enable-rotation', 'EnableKeyRotation', lifecycle.enableRotation, [
    'periodDays',
  ]),
  manage(
    'post',
    '/v1/keys/:name/disable-rotation',
    'DisableKeyRotation',
    lifecycle.disableRotation,
  ),
  manage('get', '/v1/keys/:name/rotations', 'ListKeyRotations', lifecycle.listRotations),
  manage(
    'post',
    '/v1/keys/:name/schedule-deletion',
    'ScheduleKeyDeletion',
    lifecycle.scheduleDeletion,
    ['pendingWindowDays'],
  ),
  manage('post', '/v1/keys/:name/cancel-deletion', 'CancelKeyDeletion', lifecycle.cancelDeletion),
  manage('get', '/v1/aliases', 'ListAliases', management.listAliases),
  manage('post', '/v1/aliases', 'CreateAlias', management.createAlias, ['alias', 'key']),
  manage('put', '/v1/aliases/:name', 'UpdateAlias', management.updateAlias, ['key']),
  manage('del', '/v1/aliases/:name', 'DeleteAlias', management.deleteAlias),
  manage('get', '/v1/grants', 'ListGrants', grants.listGrants),
  manage('post', '/v1/grants', 'CreateGrant', grants.createGrant, [
    'key',
    'granteePrincipal',
    'retiringPrincipal',
    'operations',
    'encryptionContextEquals',
    'encryptionContextSubset',
    'name',
  ]),
  manage('post', '/v1/grants/:name/retire', 'RetireGrant', grants.retireGrant),
  manage('del', '/v1/grants/:name', 'RevokeGrant', grants.revokeGrant),
  manage('get', '/v1/key-stores', 'DescribeCustomKeyStores', keyStores.listKeyStores),
  manage('post', '/v1/key-stores', 'CreateCustomKeyStore', keyStores.createKeyStore, [
    'name',
    'kind',
    ...KEY_STORE_FIELDS,
  ]),
  manage('get', '/v1/key-stores/:name', 'DescribeCustomKeyStores', keyStores.describeKeyStore),
  manage('put', '/v1/key-stores/:name', 'UpdateCustomKeyStore', keyStores.updateKeyStore, [
    'name',
    ...KEY_STORE_FIELDS,
  ]),
  manage(
    'post',
    '/v1/key-stores/:name/connect',
    'ConnectCustomKeyStore',
    keyStores.connectKeyStore,
  ),
  manage(
    'post',
    '/v1/key-stores/:name/disconnect',
    'DisconnectCustomKeyStore',
    keyStores.disconnectKeyStore,
  ),
  manage('del', '/v1/key-stores/:name', 'DeleteCustomKeyStore', keyStores.deleteKeyStore),
  manage('get', '/v1/tokens', 'ListTokens', management.listTokens),
  manage('post', '/v1/tokens', 'CreateToken', management.createToken, [
    'name',
    'principal',
    'actions',
    'keys',
    'expiresInSeconds',
  ]),
  manage('del', '/v1/tokens/:name', 'RevokeToken', management.revokeToken),
  manage('get', '/v1/access-keys', 'ListAccessKeys', management.listAccessKeys),
  manage('post', '/v1/access-keys', 'CreateAccessKey', management.createAccessKey, [
    'principal',
    'temporary',
    'xksPrefix',
    'expiresInSeconds',
  ]),
  manage('del', '/v1/access-keys/:name', 'RevokeAccessKey', management.revokeAccessKey),
  { ...manage('post', '/v1/lock', 'Lock', management.lock), whenLocked: true },
  { ...manage('get', '/v1/limits', 'DescribeLimits', management.describeLimits), whenLocked: true },
]

function manage(
  method: Method,
  path: string,
  operation: string,
  handler: ManagementHandler,
  fields: readonly string[] = [],
): Extract<Route, { kind: 'management' }> {
  return { kind: 'management', method, path, operation, handler, fields }
}
