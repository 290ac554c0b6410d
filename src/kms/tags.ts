/** Tags of KMS keys: what people sort, bill and write policies by. */
import * as catalogKeys from '../catalog/keys.ts'
import { KeyfoldError } from '../errors.ts'
import {
  SERVED_ALONE_SECONDS_MAX,
  TAG_KEY_CHARACTERS_MAX,
  TAG_VALUE_CHARACTERS_MAX,
  TAGS_MAX,
} from '../limits.ts'
import type { KmsKey } from './kms-key.ts'
import type { KmsParts } from './parts.ts'
import { parseServedAloneSeconds, SERVED_ALONE_TAG } from './served-alone.ts'

export class Tags {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  /** Adds tags, or gives those that are there new values. */
  async add(reference: string, tags: ReadonlyMap<string, string>): Promise<KmsKey> {
    const { registry } = this.#parts
    checkTags(tags)
    const { id } = await registry.resolve(reference)
    return registry.change(id, 'TagResource', async (transaction, _changeNumber, now) => {
      checkTags(new Map([...now.tags, ...tags]))
      await catalogKeys.putTags(
        transaction,
        id,
        [...tags].map(([key, value]) => ({ key, value })),
      )
    })
  }

  /** Tags that are not there are no error. */
  async remove(reference: string, keys: readonly string[]): Promise<KmsKey> {
    const { registry } = this.#parts
    const { id } = await registry.resolve(reference)
    return registry.change(id, 'UntagResource', (transaction) =>
      catalogKeys.deleteTags(transaction, id, keys),
    )
  }
}

export function checkTags(tags: ReadonlyMap<string, string>): void {
  if (tags.size > TAGS_MAX) {
    throw new KeyfoldError('TAG_INVALID', `Too many tags: at most ${TAGS_MAX}`)
  }
  for (const [key, value] of tags) {
    if (key.startsWith('aws:')) {
      throw new KeyfoldError('TAG_INVALID', 'Tags beginning with aws: are reserved')
    }
    if (key.length < 1 || key.length > TAG_KEY_CHARACTERS_MAX) {
      throw new KeyfoldError('TAG_INVALID', `keys have 1 to ${TAG_KEY_CHARACTERS_MAX} characters`)
    }
    if (key === SERVED_ALONE_TAG && parseServedAloneSeconds(value) === undefined) {
      throw new KeyfoldError('TAG_INVALID', `${key}: 0 to ${SERVED_ALONE_SECONDS_MAX} seconds`)
    }
    if (value.length > TAG_VALUE_CHARACTERS_MAX) {
      throw new KeyfoldError(
        'TAG_INVALID',
        `values have at most ${TAG_VALUE_CHARACTERS_MAX} characters`,
      )
    }
  }
}
