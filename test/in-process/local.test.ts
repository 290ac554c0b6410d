/** In-process mode on a data directory: the engine without a server, one process at a time. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'

import { openKeyfold } from '../../dist/index.js'
import { readEvents } from '../audit/log.ts'
import { startService } from '../service.ts'

const context = { table: 'orders' }
const text = (list: readonly (Uint8Array | undefined)[]): readonly string[] =>
  list.map((bytes) => String(Buffer.from(bytes ?? [])))

test('opens what a server made, and a server opens what it makes; while either runs the other is refused', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-local-'))
  try {
    const server = await startService()
    const key = await server.createKey()
    const plaintexts = [Buffer.from('one'), Buffer.from('two')]
    const theirs = await server.call('encrypt', { key, context, plaintexts })
    await expect(openKeyfold({ dataDirectory: server.dataDirectory })).rejects.toMatchObject({
      code: 'CATALOG_UNAVAILABLE',
    })
    await server.drain()
    await server.engine.close()
    cpSync(server.dataDirectory, directory, { recursive: true })
    rmSync(server.dataDirectory, { recursive: true })

    const keyfold = await openKeyfold({ dataDirectory: directory })
    await expect(openKeyfold({ dataDirectory: directory })).rejects.toMatchObject({
      code: 'CATALOG_UNAVAILABLE',
    })
    const opened = await keyfold.decrypt(theirs.ciphertexts, { context })
    expect(text(opened.plaintexts)).toEqual(['one', 'two'])
    const ours = await keyfold.encrypt(key, plaintexts, { context, form: 'packed' })
    expect(keyfold.counters()).toMatchObject({ serverCalls: 0, wraps: 1, unwraps: 1 })
    await keyfold.close()
    const events = readEvents(join(directory, 'audit'))
      .filter((event) => JSON.stringify(event).includes('"door":"in-process"'))
      .map(({ eventName }) => eventName)
    expect(events).toEqual(['Decrypt', 'Encrypt'])

    const again = await startService({ filesFrom: directory })
    const { plaintexts: back } = await again.call('decrypt', { context, packed: ours.packed })
    expect(text(back.map((bytes) => bytes ?? undefined))).toEqual(['one', 'two'])
    await again.close()
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})
