/**
 * The KMS keys: created, described, enabled, disabled, rotated, and named by aliases. A change commits first; then,
 * in one tick, the record in memory is replaced by one of a higher epoch and everyone who listens is told. The data
 * plane reads memory only.
 */
import { LRUCache } from 'lru-cache'

import type { Catalog, CatalogTransaction } from '../catalog/catalog.ts'
import * as catalogKeys from '../catalog/keys.ts'
import type { KeySpec, KeyUsage } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import {
  ALIASES_PER_KEY_MAX,
  DESCRIPTION_CHARACTERS_MAX,
  LIST_PAGE_DEFAULT,
  LIST_PAGE_MAX,
  ROTATIONS_ON_DEMAND_MAX,
  TAG_KEY_CHARACTERS_MAX,
  TAG_VALUE_CHARACTERS_MAX,
  TAGS_MAX,
} from '../limits.ts'
import { defaultKeyPolicy } from './default-policy.ts'
import {
  assertState,
  type Grant,
  type KeyOrigin,
  type KeyState,
  type KmsKey,
  type KmsKeyRegistry,
} from './kms-key.ts'
import {
  aliasArn,
  checkAliasName,
  createKeyId,
  keyArn,
  keyIdBytes,
  keyIdsOfBytes,
  parseKeyReference,
} from './reference.ts'

/** Keys and aliases kept in memory; the rest is read when it is named. */
const RECORDS_MAX = 65_536
const PEEKED_MAX = 4_096

export interface NewKey {
  readonly description?: string | undefined
  readonly alias?: string | undefined
  readonly tags?: ReadonlyMap<string, string> | undefined
}

/** What describing a key answers. */
export interface KeyMetadata {
  readonly keyId: string
  readonly arn: string
  readonly state: KeyState
  readonly description: string
  readonly createdAtMs: number
  readonly currentVersion: number
  readonly keyStore: string
  readonly aliases: readonly string[]
  readonly tags: Readonly<Record<string, string>>
}

export interface Page<T> {
  readonly items: readonly T[]
  readonly nextMarker: string | undefined
}

export interface PageRequest {
  readonly limit?: number | undefined
  readonly marker?: string | undefined
}

export class Kms implements KmsKeyRegistry {
  readonly #catalog: Catalog
  readonly #keyStores: ReadonlyMap<string, KeyStore>
  readonly #defaultStore: KeyStore
  readonly #records = new LRUCache<string, KmsKey>({ max: RECORDS_MAX })
  /** Alias → key id, of aliases that exist. */
  readonly #aliases = new LRUCache<string, string>({ max: RECORDS_MAX })
  /** What names stood for since the last change: the hot path parses none of them twice. */
  readonly #peeked = new Map<string, KmsKey>()
  readonly #listeners: ((kmsKeyId: string) => void)[] = []
  /** Grows with every change: whoever read the catalog meanwhile reads again. */
  #changes = 0
  /** Grows with every change of a key's state or material; a record carries the value of its own. */
  #epoch = 0

  constructor(catalog: Catalog, keyStores: readonly [KeyStore, ...KeyStore[]]) {
    this.#catalog = catalog
    this.#keyStores = new Map(keyStores.map((store) => [store.name, store]))
    this.#defaultStore = keyStores[0]
  }

  keyStoreOf(kmsKey: KmsKey): KeyStore {
    const store = this.#keyStores.get(kmsKey.keyStore)
    if (store === undefined) {
      throw new KeyfoldError('KEY_STORE_UNREACHABLE', `${kmsKey.keyStore} is not configured`)
    }
    return store
  }

  // The registry: what the data plane asks.

  peek(reference: string): KmsKey | undefined {
    const peeked = this.#peeked.get(reference)
    if (peeked !== undefined) return peeked
    const record = this.#peekNamed(reference)
    if (record !== undefined) {
      if (this.#peeked.size >= PEEKED_MAX) this.#peeked.clear()
      this.#peeked.set(reference, record)
    }
    return record
  }

  #peekNamed(reference: string): KmsKey | undefined {
    const name = parseKeyReference(reference, this.#catalog)
    const id = name.kind === 'id' ? name.id : this.#aliases.get(name.alias)
    return id === undefined ? undefined : this.#records.get(id)
  }

  async resolve(reference: string): Promise<KmsKey> {
    const name = parseKeyReference(reference, this.#catalog)
    if (name.kind === 'id') return this.#load(name.id)
    for (;;) {
      const changes = this.#changes
      const id =
        this.#aliases.get(name.alias) ??
        (await catalogKeys.readAlias(this.#catalog.db, name.alias))?.kmsKeyId
      if (id === undefined) throw new KeyfoldError('KMS_KEY_NOT_FOUND')
      // A change may have moved the alias while the catalog was read: what was read is then old.
      if (this.#changes !== changes) continue
      this.#aliases.set(name.alias, id)
      return this.#load(id)
    }
  }

  peekById(idBytes: Uint8Array): KmsKey | undefined {
    const [uuid, multiRegion] = keyIdsOfBytes(idBytes)
    return this.#records.get(uuid) ?? this.#records.get(multiRegion)
  }

  async resolveById(idBytes: Uint8Array): Promise<KmsKey> {
    const [uuid, multiRegion] = keyIdsOfBytes(idBytes)
    try {
      return await this.#load(uuid)
    } catch (error) {
      if (!(error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND')) throw error
      return this.#load(multiRegion)
    }
  }

  current(id: string): KmsKey | undefined {
    return this.#records.get(id)
  }

  onChange(listener: (kmsKeyId: string) => void): void {
    this.#listeners.push(listener)
  }

  // Keys.

  async createKey(request: NewKey): Promise<KeyMetadata> {
    const { description = '', alias, tags = new Map<string, string>() } = request
    checkDescription(description)
    checkTags(tags)
    if (alias !== undefined) checkAliasName(alias)
    const id = createKeyId()
    const createdAtMs = Date.now()
    const stored = await this.#defaultStore.createKeyMaterial(keyIdBytes(id), 1)
    const record = await this.#change(id, async (transaction, changeNumber) => {
      await catalogKeys.insertKey(transaction, {
        id,
        description,
        state: 'Enabled',
        keySpec: 'SYMMETRIC_DEFAULT',
        keyUsage: 'ENCRYPT_DECRYPT',
        origin: 'AWS_KMS',
        manager: 'CUSTOMER',
        multiRegion: null,
        region: null,
        policy: defaultKeyPolicy(this.#catalog.account),
        deletionAtMs: null,
        pendingWindowDays: null,
        rotationPeriodDays: null,
        nextRotationAtMs: null,
        keyStore: this.#defaultStore.name,
        currentVersion: 1,
        createdAtMs,
        changeNumber,
        materials: [{ version: 1, stored, publicKey: null }],
        tags: [...tags].map(([key, value]) => ({ key, value })),
      })
      if (alias !== undefined) {
        await insertNewAlias(transaction, { name: alias, kmsKeyId: id }, changeNumber)
      }
    })
    return metadataOf(record)
  }

  async describeKey(reference: string): Promise<KeyMetadata> {
    return metadataOf(await this.resolve(reference))
  }

  async listKeys(request: PageRequest = {}): Promise<Page<{ keyId: string; arn: string }>> {
    const limit = pageLimit(request.limit)
    const ids = await catalogKeys.listKeyIds(this.#catalog.db, request.marker ?? '', limit + 1)
    const items = ids.slice(0, limit).map((id) => ({ keyId: id, arn: keyArn(id, this.#catalog) }))
    return { items, nextMarker: ids.length > limit ? ids[limit - 1] : undefined }
  }

  async enableKey(reference: string): Promise<KeyMetadata> {
    return this.#changeState(reference, 'Enabled')
  }

  async disableKey(reference: string): Promise<KeyMetadata> {
    return this.#changeState(reference, 'Disabled')
  }

  /** New material for the key; what older versions wrapped still unwraps. */
  async rotateKey(reference: string): Promise<KeyMetadata> {
    const kmsKey = await this.resolve(reference)
    const version = kmsKey.currentVersion + 1
    if (kmsKey.currentVersion > ROTATIONS_ON_DEMAND_MAX) {
      throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${ROTATIONS_ON_DEMAND_MAX} rotations a key`)
    }
    const stored = await this.keyStoreOf(kmsKey).createKeyMaterial(kmsKey.idBytes, version)
    const record = await this.#change(kmsKey.id, async (transaction, changeNumber) => {
      const now = await readExisting(transaction, kmsKey.id)
      assertState(now.state, ['Enabled'])
      // Another rotation came first, and this version number is taken: numbers are never used twice.
      if (now.currentVersion !== kmsKey.currentVersion) {
        throw new KeyfoldError('KMS_KEY_STATE_INVALID', 'another rotation is under way')
      }
      const createdAtMs = Date.now()
      await catalogKeys.insertMaterial(transaction, {
        kmsKeyId: kmsKey.id,
        version,
        stored,
        publicKey: null,
        createdAtMs,
        rotation: 'ON_DEMAND',
      })
      await catalogKeys.updateKey(transaction, kmsKey.id, { currentVersion: version }, changeNumber)
    })
    return metadataOf(record)
  }

  // Aliases.

  async createAlias(alias: string, reference: string): Promise<void> {
    checkAliasName(alias)
    const kmsKey = await this.resolve(reference)
    await this.#change(kmsKey.id, (transaction, changeNumber) =>
      insertNewAlias(transaction, { name: alias, kmsKeyId: kmsKey.id }, changeNumber),
    )
    this.#aliases.set(alias, kmsKey.id)
    this.#peeked.clear()
  }

  async updateAlias(alias: string, reference: string): Promise<void> {
    checkAliasName(alias)
    const kmsKey = await this.resolve(reference)
    let movedFrom = kmsKey.id
    await this.#change(kmsKey.id, async (transaction, changeNumber) => {
      movedFrom = (await readExistingAlias(transaction, alias)).kmsKeyId
      if (movedFrom !== kmsKey.id) await assertRoomForAlias(transaction, kmsKey.id)
      const moved = { name: alias, kmsKeyId: kmsKey.id }
      await catalogKeys.updateAlias(transaction, moved, Date.now(), changeNumber)
    })
    // The other key's record still lists the alias: it is read again when it is asked for.
    if (movedFrom !== kmsKey.id) this.#records.delete(movedFrom)
    this.#aliases.set(alias, kmsKey.id)
    this.#peeked.clear()
  }

  async deleteAlias(alias: string): Promise<void> {
    const { kmsKeyId } = await readExistingAlias(this.#catalog.db, alias)
    await this.#change(kmsKeyId, async (transaction) => {
      await readExistingAlias(transaction, alias)
      await catalogKeys.deleteAlias(transaction, alias)
    })
    this.#aliases.delete(alias)
    this.#peeked.clear()
  }

  async listAliases(
    request: PageRequest & { readonly key?: string | undefined } = {},
  ): Promise<Page<{ name: string; keyId: string; arn: string }>> {
    const limit = pageLimit(request.limit)
    const kmsKeyId = request.key === undefined ? undefined : (await this.resolve(request.key)).id
    const aliases = await catalogKeys.listAliases(this.#catalog.db, {
      afterName: request.marker ?? '',
      limit: limit + 1,
      kmsKeyId,
    })
    const items = aliases.slice(0, limit).map(({ name, kmsKeyId: keyId }) => ({
      name,
      keyId,
      arn: aliasArn(name, this.#catalog),
    }))
    return { items, nextMarker: aliases.length > limit ? aliases[limit - 1]?.name : undefined }
  }

  // Inside.

  async #changeState(reference: string, state: 'Enabled' | 'Disabled'): Promise<KeyMetadata> {
    const { id } = await this.resolve(reference)
    const record = await this.#change(id, async (transaction, changeNumber) => {
      const now = await readExisting(transaction, id)
      assertState(now.state, ['Enabled', 'Disabled'])
      await catalogKeys.updateKey(transaction, id, { state }, changeNumber)
    })
    return metadataOf(record)
  }

  /** Commits `work` and makes the key's new record visible. Answers come from the catalog in the order of commits. */
  async #change(
    id: string,
    work: (transaction: CatalogTransaction, changeNumber: number) => Promise<void>,
  ): Promise<KmsKey> {
    const stored = await this.#catalog.change(async (transaction, changeNumber) => {
      await work(transaction, changeNumber)
      return readExisting(transaction, id)
    })
    this.#changes++
    const before = this.#records.get(id)
    const moved = before === undefined || !isSameMaterial(before, stored)
    const record = this.#recordOf(stored, moved ? ++this.#epoch : before.epoch)
    this.#records.set(id, record)
    this.#peeked.clear()
    // Tags, aliases, grants and policies leave data keys where they are: they are asked for at every use.
    if (moved) for (const listener of this.#listeners) listener(id)
    return record
  }

  async #load(id: string): Promise<KmsKey> {
    for (;;) {
      const known = this.#records.get(id)
      if (known !== undefined) return known
      const changes = this.#changes
      const stored = await readExisting(this.#catalog.db, id)
      if (this.#changes !== changes) continue
      const record = this.#recordOf(stored, this.#epoch)
      this.#records.set(id, record)
      return record
    }
  }

  #recordOf(stored: catalogKeys.StoredKey, epoch: number): KmsKey {
    const idBytes = keyIdBytes(stored.id)
    return Object.freeze({
      id: stored.id,
      idBytes,
      arn: keyArn(stored.id, this.#catalog),
      state: stored.state,
      keySpec: stored.keySpec as KeySpec,
      keyUsage: stored.keyUsage as KeyUsage,
      origin: stored.origin as KeyOrigin,
      manager: stored.manager,
      multiRegion: stored.multiRegion ?? undefined,
      policy: stored.policy,
      grants: stored.grants.map(grantOf),
      aliases: stored.aliases,
      description: stored.description,
      createdAtMs: stored.createdAtMs,
      keyStore: stored.keyStore,
      currentVersion: stored.currentVersion,
      materials: new Map(
        stored.materials.map((material) => [material.version, { kmsKeyId: idBytes, ...material }]),
      ),
      tags: new Map(stored.tags.map(({ key, value }) => [key, value])),
      epoch,
    })
  }
}

/** Whether what wraps and unwraps is what it was: state, material and all of its versions. */
function isSameMaterial(before: KmsKey, stored: catalogKeys.StoredKey): boolean {
  return (
    before.state === stored.state &&
    before.currentVersion === stored.currentVersion &&
    before.materials.size === stored.materials.length &&
    stored.materials.every(({ version }) => before.materials.has(version))
  )
}

type Queries = Parameters<typeof catalogKeys.readKey>[0]

async function readExisting(db: Queries, id: string): Promise<catalogKeys.StoredKey> {
  const stored = await catalogKeys.readKey(db, id)
  if (stored === undefined) throw new KeyfoldError('KMS_KEY_NOT_FOUND')
  return stored
}

async function readExistingAlias(db: Queries, alias: string): Promise<catalogKeys.StoredAlias> {
  const stored = await catalogKeys.readAlias(db, alias)
  if (stored === undefined) throw new KeyfoldError('ALIAS_NOT_FOUND')
  return stored
}

async function insertNewAlias(
  transaction: CatalogTransaction,
  alias: catalogKeys.StoredAlias,
  changeNumber: number,
): Promise<void> {
  if ((await catalogKeys.readAlias(transaction, alias.name)) !== undefined) {
    throw new KeyfoldError('ALIAS_EXISTS')
  }
  await assertRoomForAlias(transaction, alias.kmsKeyId)
  await catalogKeys.insertAlias(transaction, alias, Date.now(), changeNumber)
}

async function assertRoomForAlias(transaction: CatalogTransaction, id: string): Promise<void> {
  if ((await catalogKeys.countAliases(transaction, id)) >= ALIASES_PER_KEY_MAX) {
    throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${ALIASES_PER_KEY_MAX} aliases a key`)
  }
}

function metadataOf(record: KmsKey): KeyMetadata {
  return {
    keyId: record.id,
    arn: record.arn,
    state: record.state,
    description: record.description,
    createdAtMs: record.createdAtMs,
    currentVersion: record.currentVersion,
    keyStore: record.keyStore,
    aliases: record.aliases,
    tags: Object.fromEntries(record.tags),
  }
}

function grantOf(stored: catalogKeys.StoredGrant): Grant {
  const { id, granteePrincipal, operations, constraints, createdAtMs } = stored
  const pairsOf = (pairs: Readonly<Record<string, string>> | undefined) =>
    pairs === undefined ? undefined : new Map(Object.entries(pairs))
  return {
    id,
    granteePrincipal,
    retiringPrincipal: stored.retiringPrincipal ?? undefined,
    operations,
    constraints: { equals: pairsOf(constraints.equals), subset: pairsOf(constraints.subset) },
    name: stored.name ?? undefined,
    createdAtMs,
  }
}

function pageLimit(limit: number = LIST_PAGE_DEFAULT): number {
  if (!Number.isInteger(limit) || limit < 1 || limit > LIST_PAGE_MAX) {
    throw new KeyfoldError('REQUEST_MALFORMED', `limit: 1 to ${LIST_PAGE_MAX}`)
  }
  return limit
}

function checkDescription(description: string): void {
  if (description.length > DESCRIPTION_CHARACTERS_MAX) {
    throw new KeyfoldError(
      'LIMIT_EXCEEDED',
      `description: at most ${DESCRIPTION_CHARACTERS_MAX} characters`,
    )
  }
}

function checkTags(tags: ReadonlyMap<string, string>): void {
  if (tags.size > TAGS_MAX) throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${TAGS_MAX} tags`)
  for (const [key, value] of tags) {
    if (key.length < 1 || key.length > TAG_KEY_CHARACTERS_MAX || key.startsWith('aws:')) {
      throw new KeyfoldError(
        'TAG_INVALID',
        `keys have 1 to ${TAG_KEY_CHARACTERS_MAX} characters and do not begin with aws:`,
      )
    }
    if (value.length > TAG_VALUE_CHARACTERS_MAX) {
      throw new KeyfoldError(
        'TAG_INVALID',
        `values have at most ${TAG_VALUE_CHARACTERS_MAX} characters`,
      )
    }
  }
}
