/**
 * What SQLite leaves behind: a row that grows moves to another page, and the page it came from keeps its bytes, freed
 * and overwritten or not. After scrubbing nothing that was destroyed is found in the catalog's files.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { openCatalog, type Catalog } from '../../dist/catalog/catalog.js'
import { destroyMaterials } from '../../dist/catalog/destruction.js'
import { insertKey, insertMaterial } from '../../dist/catalog/keys.js'

const KEY = 'mrk-1234abcd12ab34cd56ef1234567890ab'
const ROWS = 3_000

let dataDirectory: string
let catalog: Catalog
const stored = Array.from({ length: ROWS }, () => randomBytes(60))

beforeAll(async () => {
  dataDirectory = mkdtempSync(join(tmpdir(), 'keyfold-scrub-'))
  catalog = await openCatalog({ dataDirectory, region: 'us-east-1', account: '000000000000' })
  await catalog.change(async (transaction, changeNumber) => {
    await insertKey(transaction, {
      id: KEY,
      description: '',
      state: 'Enabled',
      keySpec: 'SYMMETRIC_DEFAULT',
      keyUsage: 'ENCRYPT_DECRYPT',
      origin: 'AWS_KMS',
      manager: 'CUSTOMER',
      multiRegion: 'PRIMARY',
      region: null,
      policy: '',
      deletionAtMs: null,
      pendingWindowDays: null,
      rotationPeriodDays: null,
      nextRotationAtMs: null,
      keyStore: 'local',
      externalKeyId: null,
      currentVersion: 1,
      createdAtMs: 1,
      changeNumber,
      materials: [],
      tags: [],
    })
    for (const [i, bytes] of stored.entries()) {
      await insertMaterial(transaction, {
        kmsKeyId: KEY,
        version: i + 1,
        stored: bytes,
        publicKey: null,
        createdAtMs: 1,
        rotation: null,
      })
    }
  })
  await catalog.change(async (transaction) => {
    for (let version = 1; version <= ROWS; version += 3) {
      await transaction
        .updateTable('keyMaterials')
        .set({ description: 'd'.repeat((version * 7_919) % 1_500) })
        .where('version', '=', version)
        .execute()
    }
  })
})
afterAll(async () => {
  await catalog.close()
  rmSync(dataDirectory, { recursive: true, force: true })
})

/** As another process reads them: closing a descriptor here would drop this process's locks. */
const found = (): number => {
  const paths = readdirSync(dataDirectory).map((name) => join(dataDirectory, name))
  const files = execFileSync('cat', paths, { maxBuffer: 2 ** 30 })
  return stored.filter((bytes) => files.includes(bytes.subarray(10, 42))).length
}

test('scrubbing leaves nothing that was destroyed in any file', async () => {
  expect(found()).toBe(ROWS)
  await catalog.change((transaction) => destroyMaterials(transaction, KEY, 2))
  // Nothing says yet that there is anything to scrub.
  await catalog.scrub()
  expect(found()).toBeGreaterThan(0)
  await catalog.destroyed.recordKey(KEY, catalog.db)
  await catalog.scrub()
  expect(found()).toBe(0)
})
