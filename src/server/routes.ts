/**
 * The routes, as data: method, path and what answers. Limits and authentication are enforced in one place, server.ts,
 * for all of them.
 */
import type { OperationName } from '../format/requests.ts'
import * as lifecycle from './lifecycle.ts'
import * as management from './management.ts'
import type { ManagementHandler } from './management.ts'
import * as policies from './policies.ts'

export type Method = 'get' | 'post' | 'put' | 'del'

export type Route =
  /** An operation of the batch API: the body goes to the envelope as it lies. */
  | { readonly kind: 'operation'; readonly path: string; readonly op: OperationName | 'batch' }
  /** Management: a small map in, a small map out. `:name` in the path is handed to the handler. */
  | {
      readonly kind: 'management'
      readonly method: Method
      readonly path: string
      readonly handler: ManagementHandler
      /** What its map may have; anything else is refused by name. */
      readonly fields: readonly string[]
      /** Answered also when every key is wiped. */
      readonly whenLocked?: boolean
    }

export const ROUTES: readonly Route[] = [
  { kind: 'operation', path: '/v1/encrypt', op: 'encrypt' },
  { kind: 'operation', path: '/v1/decrypt', op: 'decrypt' },
  { kind: 'operation', path: '/v1/re-encrypt', op: 're-encrypt' },
  { kind: 'operation', path: '/v1/data-keys', op: 'data-keys' },
  { kind: 'operation', path: '/v1/batch', op: 'batch' },

  manage('post', '/v1/keys', management.createKey, ['description', 'alias', 'tags']),
  manage('get', '/v1/keys', management.listKeys),
  manage('get', '/v1/keys/:name', management.describeKey),
  manage('post', '/v1/keys/:name/enable', management.enableKey),
  manage('post', '/v1/keys/:name/disable', management.disableKey),
  manage('post', '/v1/keys/:name/rotate', management.rotateKey),
  manage('get', '/v1/keys/:name/policy', policies.getKeyPolicy),
  manage('put', '/v1/keys/:name/policy', policies.putKeyPolicy, [
    'policy',
    'bypassPolicyLockoutSafetyCheck',
  ]),
  manage('get', '/v1/identity-policies', policies.listIdentityPolicies),
  manage('get', '/v1/identity-policies/:name', policies.getIdentityPolicy),
  manage('put', '/v1/identity-policies/:name', policies.putIdentityPolicy, ['principal', 'policy']),
  manage('del', '/v1/identity-policies/:name', policies.deleteIdentityPolicy),
  manage('post', '/v1/policy/explain', policies.explainPolicy, [
    'principal',
    'action',
    'key',
    'context',
  ]),
  manage('post', '/v1/keys/:name/enable-rotation', lifecycle.enableRotation, ['periodDays']),
  manage('post', '/v1/keys/:name/disable-rotation', lifecycle.disableRotation),
  manage('get', '/v1/keys/:name/rotations', lifecycle.listRotations),
  manage('post', '/v1/keys/:name/schedule-deletion', lifecycle.scheduleDeletion, [
    'pendingWindowDays',
  ]),
  manage('post', '/v1/keys/:name/cancel-deletion', lifecycle.cancelDeletion),
  manage('get', '/v1/aliases', management.listAliases),
  manage('post', '/v1/aliases', management.createAlias, ['alias', 'key']),
  manage('put', '/v1/aliases/:name', management.updateAlias, ['key']),
  manage('del', '/v1/aliases/:name', management.deleteAlias),
  manage('get', '/v1/tokens', management.listTokens),
  manage('post', '/v1/tokens', management.createToken, [
    'name',
    'principal',
    'actions',
    'keys',
    'expiresInSeconds',
  ]),
  manage('del', '/v1/tokens/:name', management.revokeToken),
  manage('get', '/v1/access-keys', management.listAccessKeys),
  manage('post', '/v1/access-keys', management.createAccessKey, [
    'principal',
    'temporary',
    'expiresInSeconds',
  ]),
  manage('del', '/v1/access-keys/:name', management.revokeAccessKey),
  { ...manage('post', '/v1/lock', management.lock), whenLocked: true },
  { ...manage('get', '/v1/limits', management.describeLimits), whenLocked: true },
]

function manage(
  method: Method,
  path: string,
  handler: ManagementHandler,
  fields: readonly string[] = [],
): Extract<Route, { kind: 'management' }> {
  return { kind: 'management', method, path, handler, fields }
}
