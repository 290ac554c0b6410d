/** Multi-Region keys: replicas of them in other regions, and which is the primary. */
import { assertPrimary } from '../../kms/replicas.ts'
import { authorizeNewKey, describeKey, description } from './keys.ts'
import { KEY_ID, readTags, tags } from './members.ts'
import { keyed, type Operation } from './operation.ts'
import { acceptPolicy, bypassParameter, checkPolicy, POLICY_MEMBERS } from './policies.ts'
import { optional, required, text } from './shapes.ts'

const region = required(text({ min: 1, max: 32, pattern: /^([a-z]+-){2,3}\d+$/ }))

export const REPLICA_OPERATIONS: readonly Operation[] = [
  keyed(
    'ReplicateKey',
    {
      ...KEY_ID,
      ...POLICY_MEMBERS,
      ReplicaRegion: region,
      Description: optional(description),
      Tags: optional(tags),
    },
    async (call, input, primary) => {
      const given = readTags(input.Tags ?? [])
      const { keySpec, keyUsage, origin } = primary
      const parameters = {
        'kms:KeyOrigin': origin,
        'kms:KeySpec': keySpec,
        'kms:KeyUsage': keyUsage,
        'kms:MultiRegion': true,
        'kms:MultiRegionKeyType': 'REPLICA',
        ...bypassParameter(input),
      }
      authorizeNewKey(call, { parameters, tags: given, region: input.ReplicaRegion })
      if (input.Policy !== undefined) checkPolicy(input.Policy)
      const replica = await call.engine.kms.replicas.replicate(primary, {
        region: input.ReplicaRegion,
        description: input.Description,
        tags: given,
        policy: input.Policy,
        accept: acceptPolicy(call, input, { parameters, tags: given }),
      })
      call.keyArns.push(replica.arn)
      return {
        ReplicaKeyMetadata: await describeKey(call, replica),
        ReplicaPolicy: replica.policy,
        ReplicaTags: [...replica.tags].map(([TagKey, TagValue]) => ({ TagKey, TagValue })),
      }
    },
    {
      attributes: (input) => ({ parameters: { 'kms:ReplicaRegion': input.ReplicaRegion } }),
      checkKey: (_input, kmsKey) => assertPrimary(kmsKey),
    },
  ),
  keyed(
    'UpdatePrimaryRegion',
    { ...KEY_ID, PrimaryRegion: region },
    async (call, input, primary) => {
      const { replicas } = call.engine.kms
      const replica = await replicas.relative(primary, input.PrimaryRegion)
      call.authorize('kms:UpdatePrimaryRegion', replica, toPrimary(input))
      await replicas.updatePrimaryRegion(primary, replica)
      return {}
    },
    { attributes: toPrimary, checkKey: (_input, kmsKey) => assertPrimary(kmsKey) },
  ),
]

/** It is asked for of both keys. */
function toPrimary({ PrimaryRegion }: { readonly PrimaryRegion: string }) {
  return { parameters: { 'kms:PrimaryRegion': PrimaryRegion } } as const
}
