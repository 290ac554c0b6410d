/** Tags of KMS keys. */
import { pageOf } from '../../kms/parts.ts'
import { KEY_ID, paging, readTags, tags } from './members.ts'
import { keyed, type Operation } from './operation.ts'
import { list, required, text } from './shapes.ts'

/** ListResourceTags answers at most so many, which is what a key may have. */
const PAGE_MAX = 50

export const TAG_OPERATIONS: readonly Operation[] = [
  keyed(
    'TagResource',
    { ...KEY_ID, Tags: required(tags) },
    async (call, input, { arn }) => {
      await call.engine.kms.tags.add(arn, readTags(input.Tags))
      return {}
    },
    { attributes: (input) => ({ tags: readTags(input.Tags) }) },
  ),
  keyed(
    'UntagResource',
    { ...KEY_ID, TagKeys: required(list(text({ min: 1, max: 128 }), { max: 1_000 })) },
    async (call, input, { arn }) => {
      await call.engine.kms.tags.remove(arn, input.TagKeys)
      return {}
    },
    { attributes: ({ TagKeys }) => ({ tags: new Map(TagKeys.map((key) => [key, undefined])) }) },
  ),
  keyed('ListResourceTags', { ...KEY_ID, ...paging(PAGE_MAX) }, async (_call, input, kmsKey) => {
    const limit = input.Limit ?? PAGE_MAX
    const after = input.Marker ?? ''
    const rows = [...kmsKey.tags].filter(([key]) => key > after).sort()
    const { items, nextMarker } = pageOf(rows.slice(0, limit + 1), limit, ([key]) => key)
    return {
      Tags: items.map(([TagKey, TagValue]) => ({ TagKey, TagValue })),
      Truncated: nextMarker !== undefined,
      NextMarker: nextMarker,
    }
  }),
]
