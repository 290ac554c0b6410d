// A node that takes wraps, writes a byte for each that it may make, and is killed at the n-th: DATA-DIRECTORY KEY-ID
// WRAPS-MAX TIMES.
import { writeSync } from 'node:fs'

import { openCatalog } from '../dist/catalog/catalog.js'
import { keyIdBytes } from '../dist/kms/reference.js'
import { WrapBudgets } from '../dist/kms/wrap-budgets.js'

const [dataDirectory, keyId, wrapsMax, times] = process.argv.slice(2)
const location = { region: 'us-east-1', account: '000000000000' }
const catalog = await openCatalog({ dataDirectory, ...location })
const budgets = new WrapBudgets(catalog, { log: () => undefined, onWornOut: () => undefined })
const store = { name: 'elsewhere', traits: { wrapsMax: Number(wrapsMax), rotates: false } }
const material = { kmsKeyId: keyIdBytes(keyId), version: 1 }
let left = Number(times)
const wrap = async () => {
  await budgets.take(store, material)
  writeSync(1, '.')
  if (--left === 0) process.kill(process.pid, 'SIGKILL')
}
for (;;) await Promise.all([wrap(), wrap(), wrap(), wrap(), wrap()])
