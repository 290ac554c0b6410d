/** What one node changes holds on every other one when the change is answered: not soon, but then. */
import { setImmediate as turn } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'

import { describeWithPostgres } from '../catalog/postgres.ts'
import type { Service } from '../service.ts'
import { connectStore } from '../key-stores/gate.ts'
import { Elsewhere } from '../key-stores/elsewhere.ts'
import { startNodes, type Nodes } from './nodes.ts'

/** A node that gets no turn on this machine for a second has no lease, and says nothing of what others changed. */
async function holding({ engine }: Service): Promise<Service['engine']> {
  while (engine.counters().node?.leaseHeld !== true) await turn()
  return engine
}

describeWithPostgres('a change', (postgres) => {
  let running: Nodes
  let a: Service
  let b: Service
  let key: string

  beforeAll(async () => {
    running = await startNodes(postgres, 2, { keyStoreOpener: new Elsewhere().opener })
    ;[a, b] = running.nodes as [Service, Service]
  })
  afterAll(() => running.close())

  const plaintexts = [Buffer.from('a plaintext')]
  const encrypt = async (node: Service, name: string): Promise<string | undefined> => {
    let code: string | undefined
    do ({ code } = await node.call('encrypt', { key: name, context: {}, plaintexts }))
    while (code === 'CATALOG_UNAVAILABLE')
    return code
  }
  const record = async (node: Service) => (await holding(node)).kms.registry.resolve(key)

  beforeEach(async () => {
    key = await a.createKey()
    // Both nodes remember it, with data keys.
    for (const node of [a, b]) expect(await encrypt(node, key)).toBeUndefined()
  })

  test('that disables a key stops its use everywhere, with data keys in every cache', async () => {
    for (let times = 0; times < 5; times++) {
      await a.engine.kms.disableKey(key)
      expect(await encrypt(b, key)).toBe('KMS_KEY_DISABLED')
      await b.engine.kms.enableKey(key)
      expect(await encrypt(a, key)).toBeUndefined()
    }
  })

  test('that schedules a deletion or cancels it is seen', async () => {
    await a.engine.kms.deletions.schedule(key)
    expect(await encrypt(b, key)).toBe('KMS_KEY_STATE_INVALID')
    await b.engine.kms.deletions.cancel(key)
    expect(await encrypt(a, key)).toBe('KMS_KEY_DISABLED')
  })

  test('of an alias is seen: made, moved, deleted, and made of another key', async () => {
    const other = await b.createKey()
    const alias = `alias/${key.slice(-12)}`
    const named = async (node: Service): Promise<string> =>
      (await (await holding(node)).kms.registry.resolve(alias)).keyId
    await a.engine.kms.aliases.create(alias, key)
    for (const node of [a, b]) expect(await named(node)).toBe(key)
    await b.engine.kms.aliases.update(alias, other)
    for (const node of [a, b]) {
      expect(await named(node)).toBe(other)
      expect((await record(node)).aliases).toEqual([])
    }
    await a.engine.kms.aliases.delete(alias)
    for (const node of [a, b]) expect(await encrypt(node, alias)).toBe('KMS_KEY_NOT_FOUND')
    await b.engine.kms.aliases.create(alias, key)
    for (const node of [a, b]) expect(await named(node)).toBe(key)
  })

  test('of tags, description, policy and rotation is seen', async () => {
    const { kms } = a.engine
    await kms.tags.add(key, new Map([['team', 'red']]))
    expect((await record(b)).tags.get('team')).toBe('red')
    await kms.tags.remove(key, ['team'])
    expect((await record(b)).tags.size).toBe(0)
    await kms.updateDescription(key, 'for orders')
    expect((await record(b)).description).toBe('for orders')
    const { policy } = await record(a)
    await kms.putKeyPolicy(key, policy.replace('kms:*', 'kms:Describe*'))
    expect((await record(b)).policy).toContain('kms:Describe*')
    await kms.rotations.enable(key, 90)
    expect((await record(b)).rotationPeriodDays).toBe(90)
    await kms.rotations.rotateOnDemand(key)
    expect((await record(b)).currentVersion).toBe(2)
  })

  test('that names a text which PostgreSQL cannot hold is refused, and not as a failure of ours', async () => {
    const { kms } = a.engine
    const malformed = { code: 'REQUEST_MALFORMED' }
    await expect(kms.updateDescription(key, 'a\0b')).rejects.toMatchObject(malformed)
    await expect(kms.tags.add(key, new Map([['a', '\0']]))).rejects.toMatchObject(malformed)
    expect((await record(b)).tags.size).toBe(0)
  })

  test('leaves data keys where only the key’s description changed', async () => {
    const before = b.engine.counters()
    await a.engine.kms.updateDescription(key, 'nothing else')
    expect((await record(b)).description).toBe('nothing else')
    expect(await encrypt(b, key)).toBeUndefined()
    const after = b.engine.counters()
    expect(after.sealHits - before.sealHits).toBe(1)
    expect(after.wraps).toBe(before.wraps)
  })

  test('of grants is seen: made, retired, and never lost between two nodes that change them in turn', async () => {
    const grant = (i: number) => ({
      granteePrincipal: `arn:aws:iam::000000000000:user/grantee-${i}`,
      retiringPrincipal: undefined,
      operations: ['Encrypt'],
      constraints: { equals: undefined, subset: undefined },
      name: undefined,
      issuingAccount: '000000000000',
    })
    const ids: string[] = []
    for (let i = 0; i < 6; i++) {
      const { grantId } = await (i % 2 === 0 ? a : b).engine.kms.grants.create(key, grant(i))
      ids.push(grantId)
      for (const node of [a, b]) {
        expect((await record(node)).grants.map(({ id }) => id).sort()).toEqual([...ids].sort())
      }
    }
    // At the same time, from both.
    const made = await Promise.all(
      Array.from({ length: 10 }, (_, i) =>
        (i % 2 === 0 ? a : b).engine.kms.grants.create(key, grant(100 + i)),
      ),
    )
    ids.push(...made.map(({ grantId }) => grantId))
    await b.engine.kms.grants.end(await record(b), ids.shift() as string, 'RevokeGrant')
    for (const node of [a, b]) {
      expect((await record(node)).grants.map(({ id }) => id).sort()).toEqual([...ids].sort())
    }
  })

  test('of a key store is seen: connected, disconnected, and deleted', async () => {
    const keyStore = await connectStore(a.engine)
    const stores = b.engine.kms.keyStores
    while (!stores.isConnected(keyStore)) await new Promise((resolve) => setTimeout(resolve, 5))
    const { arn } = await b.engine.kms.createKey({ keyStore })
    for (const node of [a, b]) expect(await encrypt(node, arn)).toBeUndefined()
    await a.engine.kms.keyStores.disconnect(keyStore)
    for (const node of [a, b]) expect(await encrypt(node, arn)).toBe('KMS_KEY_STATE_INVALID')
    await expect(stores.delete(keyStore)).rejects.toMatchObject({ code: 'KEY_STORE_HAS_KEYS' })
    await stores.connect(keyStore)
    await stores.settled(keyStore)
    while (!a.engine.kms.keyStores.isConnected(keyStore)) {
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    for (const node of [a, b]) expect(await encrypt(node, arn)).toBeUndefined()
  })

  test('of tokens, access keys and identity policies is seen', async () => {
    const { token, record: made } = await a.engine.tokens.create({
      name: 'reader',
      actions: ['kms:Decrypt'],
      keys: ['*'],
    })
    expect((await holding(b)).tokens.authenticate(token)?.tokenId).toBe(made.tokenId)
    await b.engine.tokens.revoke(made.tokenId)
    expect((await holding(a)).tokens.authenticate(token)).toBeUndefined()

    const principalArn = `arn:aws:iam::000000000000:user/${key.slice(-12)}`
    const { record: accessKey } = await b.engine.accessKeys.create({ principalArn })
    const { accessKeyId } = accessKey
    expect((await holding(a)).accessKeys.find(accessKeyId)?.principal.arn).toBe(principalArn)
    await a.engine.accessKeys.revoke(accessKeyId)
    expect((await holding(b)).accessKeys.find(accessKeyId)).toBeUndefined()

    const document = JSON.stringify({
      Version: '2012-10-17',
      Statement: [{ Effect: 'Allow', Action: 'kms:*', Resource: '*' }],
    })
    const policy = { principalArn, name: 'all', document }
    for (let times = 0; times < 3; times++) {
      await a.engine.identityPolicies.put(policy)
      expect((await holding(b)).identityPolicies.list(principalArn)).toEqual([policy])
      await b.engine.identityPolicies.delete(principalArn, 'all')
      expect((await holding(a)).identityPolicies.list(principalArn)).toEqual([])
    }
  })
})

describeWithPostgres('a family of multi-Region keys', (postgres) => {
  let running: Nodes
  beforeAll(async () => {
    running = await startNodes(postgres, 2, { settings: { otherRegions: 'eu-west-1' } })
  })
  afterAll(() => running.close())

  test('is one on every node: replicas come and go, and new material is everyone’s', async () => {
    const [{ engine }, other] = running.nodes as [Service, Service]
    const a = engine.kms
    const ofOther = async (...given: Parameters<typeof a.registry.resolve>) =>
      (await holding(other)).kms.registry.resolve(...given)
    const primary = await a.createKey({ multiRegion: true })
    await a.replicas.replicate(primary, { region: 'eu-west-1' })
    // Node b remembers the replica alone.
    const replica = await ofOther(primary.keyId, 'eu-west-1')
    expect(replica.multiRegion).toBe('REPLICA')
    await a.rotations.rotateOnDemand(primary.arn)
    const renewed = await ofOther(primary.keyId, 'eu-west-1')
    expect(renewed.currentVersion).toBe(2)
    expect([...renewed.materials.keys()]).toEqual([1, 2])
    expect(renewed.epoch).toBeGreaterThan(replica.epoch)
    await a.replicas.updatePrimaryRegion(primary, renewed)
    expect((await ofOther(primary.keyId)).multiRegion).toBe('REPLICA')
    expect((await ofOther(primary.keyId, 'eu-west-1')).multiRegion).toBe('PRIMARY')
  })
})

describeWithPostgres('what is due', (postgres) => {
  let running: Nodes
  let nowMs = Date.now()
  const DAY_MS = 86_400_000

  beforeAll(async () => {
    running = await startNodes(postgres, 3, {
      settings: { otherRegions: 'eu-west-1', rotateAfterMessages: '10' },
      wallClockMs: () => nowMs,
    })
  })
  afterAll(() => running.close())

  const runAll = (): Promise<unknown> =>
    Promise.all(running.nodes.map(({ engine }) => engine.scheduler.run()))
  const versionsOf = async (key: string): Promise<readonly unknown[]> => {
    const id = key.replace(/^.*\//, '')
    const sql = `select version from "keyMaterials" where "kmsKeyId" = '${id}' order by version`
    return (await postgres.query(running.url, sql)).map(({ version }) => version)
  }

  test('is done once, whoever does it: rotations by time and by use, on three nodes at once', async () => {
    const [a, b, c] = running.nodes as [Service, Service, Service]
    const keys = await Promise.all(Array.from({ length: 8 }, () => a.createKey()))
    for (const key of keys) await b.engine.kms.rotations.enable(key, 90)
    // Every node remembers the keys as they were.
    for (const { engine } of [a, b, c]) {
      for (const key of keys) await engine.kms.registry.resolve(key)
    }
    nowMs += 91 * DAY_MS
    await runAll()
    for (const key of keys) expect(await versionsOf(key)).toEqual([1, 2])
    await runAll()
    for (const key of keys) expect(await versionsOf(key)).toEqual([1, 2])

    const [used] = keys as [string]
    const plaintexts = Array.from({ length: 12 }, () => Buffer.from('x'))
    await c.call('encrypt', { key: used, context: {}, plaintexts })
    await c.engine.keyUses.flush()
    await runAll()
    await runAll()
    expect(await versionsOf(used)).toEqual([1, 2, 3])
    for (const { logged } of running.nodes) expect(logged).toEqual([])
  })

  test('a deletion is carried out once, everywhere, and stands in the table of what was destroyed', async () => {
    const [a, b, c] = running.nodes as [Service, Service, Service]
    const key = await a.createKey()
    const id = key.replace(/^.*\//, '')
    await b.engine.kms.deletions.schedule(key, 7)
    nowMs += 8 * DAY_MS
    await runAll()
    for (const node of [a, b, c]) {
      await expect((await holding(node)).kms.registry.resolve(key)).rejects.toMatchObject({
        code: 'KMS_KEY_NOT_FOUND',
      })
    }
    const rows = await postgres.query(
      running.url,
      `select "kmsKeyId", version, scrubbed from destroyed where "kmsKeyId" = '${id}'`,
    )
    expect(rows).toEqual([{ kmsKeyId: id, version: 0, scrubbed: 1 }])
  })

  test('of two rotations on demand at once one is told that the other came first', async () => {
    const [a, b] = running.nodes as [Service, Service]
    for (let times = 0; times < 5; times++) {
      const key = await a.createKey()
      await b.engine.kms.registry.resolve(key)
      const outcomes = await Promise.allSettled(
        [a, b].map(({ engine }) => engine.kms.rotations.rotateOnDemand(key)),
      )
      const failed = outcomes.filter(({ status }) => status === 'rejected')
      for (const outcome of failed) {
        expect(outcome).toMatchObject({ reason: { code: 'KMS_KEY_ROTATING' } })
      }
      expect(await versionsOf(key)).toHaveLength(3 - failed.length)
      expect(failed.length).toBeLessThanOrEqual(1)
    }
  })
})
