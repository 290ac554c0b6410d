// What callers see while something that a server needs is stopped, and after it is back: requests answered and refused
// in each window of time, as a plot. A caller here does what a bad one does: it tries again at once, on several
// connections. Where there are several nodes it goes round them, and passes over one that failed, as a balancer does.
import { Agent, request } from 'node:http'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { findPostgres, startPostgres } from './postgres.mjs'
import { median } from './report.mjs'
import { askKeyfold, encode, initKeyfold, runKeyfold, startNode } from './servers.mjs'
import { createKeyIn, STORES } from './stores.mjs'

const NODES = 3
const CONNECTIONS = 8
const WINDOW_MS = 100
const MESSAGES = { count: 16, bytes: 256 }
/** Before, while and after. */
const PHASES_MS = { quick: [1_500, 2_000, 4_500], full: [5_000, 10_000, 15_000] }
/** How long a node that failed is passed over. */
const PASSED_OVER_MS = 500
/** A message key lasts for fewer requests than are sent in any window: cached keys end while the store is away. */
const SHORT_KEYS = ['--message-key-messages-max', '1024']

/** What is taken away and given back. Each opens the servers to be loaded, and says how to do either. */
const FAULTS = [
  { name: 'a server is killed and started again', open: openServer },
  ...['xks', 'aws-kms'].flatMap((store) => [
    {
      name: `the key store (${store}) is killed and started again`,
      open: () => openWithStore(store, []),
    },
    {
      name: `the key store (${store}), and message keys end every 1024 messages`,
      open: () => openWithStore(store, SHORT_KEYS),
    },
  ]),
  {
    name: `one node of ${NODES} is killed and started again`,
    missing: () => (findPostgres() === undefined ? 'postgresql' : undefined),
    open: openNodes,
  },
]

export async function run({ quick, progress }) {
  const rows = []
  for (const fault of FAULTS) {
    const wanted = fault.missing?.()
    if (wanted !== undefined) {
      progress(`${fault.name}: not measured, install ${wanted}`)
      continue
    }
    const row = await measure(fault, quick ? PHASES_MS.quick : PHASES_MS.full)
    const { errors, answeredWhileAway, backAfterMs } = row.params
    progress(
      `${fault.name}: ${answeredWhileAway} answered while it was away, ${errors} refused or lost, ` +
        (backAfterMs === null ? 'not as before' : `as before ${backAfterMs} ms after it was back`),
    )
    rows.push(row)
  }
  return rows
}

async function openServer() {
  const server = await initKeyfold()
  return {
    nodes: [server],
    keyId: server.keyId,
    takeAway: server.kill,
    giveBack: server.start,
    stop: server.stop,
  }
}

/** The store is a second keyfold. */
async function openWithStore(name, argv) {
  const store = await STORES.find((one) => one.name === name).open()
  const server = await initKeyfold([...argv, '--log-level', 'silent'])
  const stop = async () => {
    await server.stop()
    await store.stop()
  }
  try {
    const keyId = createKeyIn(server, name, store)
    return {
      nodes: [server],
      keyId,
      takeAway: store.takeAway,
      giveBack: store.giveBack,
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Nodes on one catalog, which have the root key from their environment. */
async function openNodes() {
  const postgres = await startPostgres()
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-bench-nodes-'))
  const nodes = []
  const stop = async () => {
    for (const node of nodes) await node.stop()
    await postgres.stop()
    rmSync(directory, { recursive: true, force: true })
  }
  try {
    const env = {
      KEYFOLD_CATALOG: postgres.url,
      KEYFOLD_ROOT_KEY_SOURCE: 'environment',
      KEYFOLD_ROOT_KEY: randomBytes(32).toString('hex'),
    }
    const { token } = runKeyfold(['init', '--data', join(directory, 'init')], env)
    for (let i = 0; i < NODES; i++) {
      const argv = ['--data', join(directory, `node-${i}`), '--workers', '0']
      nodes.push(await startNode(token, argv, env))
    }
    const [first] = nodes
    const { keyId } = askKeyfold(first, ['keys', 'create'])
    return { nodes, keyId, takeAway: first.kill, giveBack: first.start, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function measure({ name, open }, [beforeMs, awayMs, afterMs]) {
  const { nodes, keyId, takeAway, giveBack, stop } = await open()
  try {
    const plaintexts = Array.from({ length: MESSAGES.count }, () => randomBytes(MESSAGES.bytes))
    const body = encode({ key: keyId, plaintexts })
    const windows = []
    const marks = []
    const startedMs = performance.now()
    const loading = loadUntil(
      startedMs + beforeMs + awayMs + afterMs,
      { nodes, body },
      (answered) => {
        const at = Math.floor((performance.now() - startedMs) / WINDOW_MS)
        while (windows.length <= at) windows.push({ answered: 0, refused: 0 })
        windows[at][answered ? 'answered' : 'refused']++
      },
    )
    for (const [waitMs, what, act] of [
      [beforeMs, 'stopped', takeAway],
      [awayMs, 'started', giveBack],
    ]) {
      const dueMs = (marks.at(-1)?.atMs ?? 0) + waitMs
      await sleep(startedMs + dueMs - performance.now())
      marks.push({ atMs: performance.now() - startedMs, what })
      await act()
    }
    await loading
    return rowOf(name, { windowMs: WINDOW_MS, windows, marks })
  } finally {
    await stop()
  }
}

function rowOf(name, timeline) {
  const { windows, marks } = timeline
  const [away, back] = marks.map(({ atMs }) => Math.floor(atMs / WINDOW_MS))
  // The first windows are those of a server that is not warm yet.
  const steady = median(windows.slice(Math.floor(away / 2), away).map(({ answered }) => answered))
  const recovered = windows.findIndex(({ answered }, at) => at >= back && answered >= 0.9 * steady)
  return {
    suite: 'faults',
    name,
    params: {
      connections: CONNECTIONS,
      messages: MESSAGES.count,
      messageBytes: MESSAGES.bytes,
      errors: windows.reduce((sum, { refused }) => sum + refused, 0),
      answeredWhileAway: windows
        .slice(away + 1, back)
        .reduce((sum, { answered }) => sum + answered, 0),
      backAfterMs: recovered < 0 ? null : (recovered - back) * WINDOW_MS,
    },
    value: (steady * 1000 * MESSAGES.count) / WINDOW_MS,
    unit: 'messages/s',
    ratios: {},
    timeline,
  }
}

/** Resolves when it is over; `told` hears of each request how it ended. */
async function loadUntil(endsMs, { nodes, body }, told) {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS })
  const next = roundRobin(nodes)
  const one = async () => {
    while (performance.now() < endsMs) {
      const { node, passOver } = next()
      const answered = await ask(agent, node, body)
      told(answered)
      if (answered) continue
      passOver()
      // A refused connection is refused at once: without a pause these are all that is counted.
      await sleep(5)
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, one))
  agent.destroy()
}

/** One node after the other, but for those that failed a moment ago, unless they are all that there is. */
function roundRobin(nodes) {
  const places = nodes.map((node) => ({ node, passedOverUntilMs: 0 }))
  let turn = 0
  return () => {
    const nowMs = performance.now()
    const inTurn = places.map((_, i) => places[(turn + i) % places.length])
    turn = (turn + 1) % places.length
    const place = inTurn.find(({ passedOverUntilMs }) => passedOverUntilMs <= nowMs) ?? inTurn[0]
    const passOver = () => {
      place.passedOverUntilMs = performance.now() + PASSED_OVER_MS
    }
    return { node: place.node, passOver }
  }
}

function ask(agent, node, body) {
  return new Promise((resolve) => {
    const asked = request(
      `${node.url}/v1/encrypt`,
      { method: 'POST', agent, headers: node.headers, timeout: 10_000 },
      (response) => {
        response.resume()
        response.on('close', () => resolve(response.statusCode === 200 && response.complete))
      },
    )
    asked.on('error', () => resolve(false))
    asked.on('timeout', () => asked.destroy())
    asked.end(body)
  })
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)))
}
