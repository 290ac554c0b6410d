/**
 * Makes golden ciphertexts with the keyfold that is built: `node test/golden/make.mjs NAME` writes
 * test/golden/NAME/{catalog.sqlite, root.key, root.check, cases.json}. What was committed is never made again: a
 * version that seals differently adds a directory, and every later one opens all of them.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { loadConfig } from '../../dist/config.js'
import { openEngine } from '../../dist/engine.js'
import { Keyfold } from '../../dist/index.js'
import { initDataDirectory } from '../../dist/init.js'
import { createLog } from '../../dist/server/log.js'
import { startServer } from '../../dist/server/server.js'

const CONTEXTS = [
  {},
  { table: 'orders', tenant: '42' },
  // Sorted by UTF-8 bytes, which JavaScript's own order is not.
  { '\u{1f511}': 'key', '\uffee': 'half-width', ä: '' },
]
const PLAINTEXTS = [
  '',
  'a',
  'exactly sixteen!',
  'a message of more than one block, grüße',
  'x'.repeat(200),
]
const messages = PLAINTEXTS.map((text) => Buffer.from(text))
const hex = (bytes) => Buffer.from(bytes).toString('hex')

const [name = ''] = process.argv.slice(2)
const directory = join(import.meta.dirname, name)
if (!/^v\d+$/.test(name) || existsSync(directory)) {
  console.error('usage: node test/golden/make.mjs vN, where vN does not exist yet')
  process.exit(2)
}

const config = loadConfig({ flags: { data: directory, listen: '127.0.0.1:0' } })
const log = { log: () => undefined }
const token = await initDataDirectory(config, log)
const engine = await openEngine(config, log)
const server = await startServer(engine, { log: createLog('silent') })
const keyfold = new Keyfold({ url: server.url, token })
const { keyId } = await keyfold.manage('POST', '/v1/keys', { alias: 'alias/golden' })
const cases = []
for (const version of [1, 2]) {
  for (const context of CONTEXTS) {
    for (const suite of [1, 2]) await seal({ context, suite })
    const dataKeys = await keyfold.dataKeys(keyId, 2, { context })
    add(
      'data-key',
      context,
      dataKeys.map((key) => key.plaintext),
      {
        wrappedKeys: dataKeys.map((key) => hex(key.wrappedKey)),
      },
    )
  }
  if (version === 1) await keyfold.manage('POST', `/v1/keys/${keyId}/rotate`)
}
const [old] = cases
const rewrapped = await keyfold.reEncryptBatch(
  keyId,
  old.ciphertexts.map((text) => Buffer.from(text, 'hex')),
  { context: old.context, mode: 'rewrap' },
)
add('inline', old.context, messages, { ciphertexts: rewrapped.ciphertexts.map(hex) })
await keyfold.close()
await server.drain()
await engine.close()
writeFileSync(join(directory, 'cases.json'), `${JSON.stringify({ keyId, cases }, undefined, 1)}\n`)

async function seal(options) {
  const { ciphertexts } = await keyfold.encryptBatch(keyId, messages, options)
  add('inline', options.context, messages, { ciphertexts: ciphertexts.map(hex) })
  const detached = await keyfold.encryptDetached(keyId, messages, options)
  add('detached', options.context, messages, {
    ciphertexts: detached.ciphertexts.map(hex),
    keyEntries: [hex(detached.keyEntry)],
  })
  const { packed } = await keyfold.encryptPacked(keyId, messages, options)
  add('packed', options.context, messages, { packed: hex(packed) })
}

function add(form, context, plaintexts, values) {
  cases.push({ form, context, plaintexts: plaintexts.map(hex), ...values })
}
