/** Aliases. An alias and the key that it names are asked for both: whoever may move one may redirect the other. */
import { KeyfoldError } from '../../errors.ts'
import type { Action } from '../../kms/kms-key.ts'
import type { Call } from './call.ts'
import { aliasName, OPTIONAL_KEY_ID, paging } from './members.ts'
import { free, seconds, type Operation } from './operation.ts'
import { required, text } from './shapes.ts'

const targetKeyId = text({ min: 1, max: 2_048 })

/** ListAliases answers at most so many. */
const PAGE_MAX = 100
const PAGE_DEFAULT = 50

export const ALIAS_OPERATIONS: readonly Operation[] = [
  free(
    'CreateAlias',
    { AliasName: required(aliasName), TargetKeyId: required(targetKeyId) },
    async (call, input) => {
      call.authorizeAlias('kms:CreateAlias', input.AliasName)
      const kmsKey = await target(call, input.TargetKeyId, 'kms:CreateAlias')
      await call.engine.kms.aliases.create(input.AliasName, kmsKey.arn)
      return {}
    },
  ),
  free(
    'UpdateAlias',
    { AliasName: required(aliasName), TargetKeyId: required(targetKeyId) },
    async (call, input) => {
      call.authorizeAlias('kms:UpdateAlias', input.AliasName)
      const kmsKey = await target(call, input.TargetKeyId, 'kms:UpdateAlias')
      await call.key(input.AliasName, 'kms:UpdateAlias')
      await call.engine.kms.aliases.update(input.AliasName, kmsKey.arn)
      return {}
    },
  ),
  free('DeleteAlias', { AliasName: required(aliasName) }, async (call, input) => {
    call.authorizeAlias('kms:DeleteAlias', input.AliasName)
    await call.key(input.AliasName, 'kms:DeleteAlias')
    await call.engine.kms.aliases.delete(input.AliasName, call.region)
    return {}
  }),
  free('ListAliases', { ...OPTIONAL_KEY_ID, ...paging(PAGE_MAX) }, async (call, input) => {
    call.authorizeService('kms:ListAliases')
    const kmsKey =
      input.KeyId === undefined ? undefined : await call.key(input.KeyId, 'kms:ListAliases')
    const { items, nextMarker } = await call.engine.kms.aliases.list({
      limit: input.Limit ?? PAGE_DEFAULT,
      marker: input.Marker,
      key: kmsKey?.arn,
      region: call.region,
    })
    return {
      Aliases: items.map((alias) => ({
        AliasName: alias.name,
        AliasArn: alias.arn,
        TargetKeyId: alias.keyId,
        CreationDate: seconds(alias.createdAtMs),
        LastUpdatedDate: seconds(alias.updatedAtMs),
      })),
      Truncated: nextMarker !== undefined,
      NextMarker: nextMarker,
    }
  }),
]

/** The key that an alias shall name, by id or ARN. */
async function target(call: Call, reference: string, action: Action) {
  if (reference.startsWith('alias/') || reference.includes(':alias/')) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'Aliases must refer to keys. Not aliases')
  }
  return call.key(reference, action)
}
