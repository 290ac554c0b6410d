/** Several keyfolds in this process, each a node of its own on one catalog. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import type { SettingTexts } from '../../dist/config.js'
import type { EngineOptions } from '../../dist/engine.js'
import type { Postgres } from '../catalog/postgres.ts'
import { startService, type Service } from '../service.ts'

export interface Nodes {
  readonly url: string
  readonly nodes: readonly Service[]
  close(): Promise<void>
}

/** The first initialises the catalog; the others have the root key and otherwise an empty data directory. */
export async function startNodes(
  postgres: Postgres,
  count: number,
  options: { readonly settings?: SettingTexts } & Omit<EngineOptions, 'log'> = {},
): Promise<Nodes> {
  const url = await postgres.createDatabase()
  const empty = mkdtempSync(join(tmpdir(), 'keyfold-nodes-'))
  const settings = { ...options.settings, catalog: url }
  const first = await startService({ ...options, settings })
  const nodes = [first]
  const rootKeyFile = join(first.dataDirectory, 'root.key')
  for (let i = 1; i < count; i++) {
    const others = { ...settings, rootKeyFile }
    nodes.push(await startService({ ...options, settings: others, filesFrom: empty }))
  }
  return {
    url,
    nodes,
    close: async () => {
      for (const node of [...nodes].reverse()) await node.close()
      rmSync(empty, { recursive: true, force: true })
    },
  }
}
