// What callers see while something that a server needs is stopped, and after it is back: requests answered and refused
// in each window of time, as a plot. A caller here does what a bad one does: it tries again at once, on several
// connections.
import { Agent, request } from 'node:http'
import { randomBytes } from 'node:crypto'

import { median } from './report.mjs'
import { initKeyfold } from './servers.mjs'

/**
 * What is taken away and given back. Each opens a server to be loaded and says how to do either; stores of other systems are
 * added with what stops them: SoftHSM's token directory for pkcs11, a second keyfold for xks and remote.
 */
const FAULTS = [
  {
    name: 'a node is killed and started again',
    open: async () => {
      const node = await initKeyfold()
      return { node, takeAway: () => node.kill(), giveBack: () => node.start() }
    },
  },
]

const CONNECTIONS = 8
const WINDOW_MS = 100
const MESSAGES = { count: 16, bytes: 256 }
/** Before, while and after. */
const PHASES_MS = { quick: [2_000, 2_000, 8_000], full: [5_000, 10_000, 10_000] }

export async function run({ quick, progress }) {
  const rows = []
  for (const fault of FAULTS) {
    const row = await measure(fault, quick ? PHASES_MS.quick : PHASES_MS.full)
    const { errors, backAfterMs } = row.params
    progress(
      `${fault.name}: ${errors} refused or lost, as before ${backAfterMs} ms after it was back`,
    )
    rows.push(row)
  }
  return rows
}

async function measure({ name, open }, [beforeMs, awayMs, afterMs]) {
  const { node, takeAway, giveBack } = await open()
  try {
    const plaintexts = Array.from({ length: MESSAGES.count }, () => randomBytes(MESSAGES.bytes))
    const body = node.encode({ key: node.keyId, plaintexts })
    const windows = []
    const marks = []
    const startedMs = performance.now()
    const loading = loadUntil(
      startedMs + beforeMs + awayMs + afterMs,
      { node, body },
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
    await node.stop()
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
async function loadUntil(endsMs, { node, body }, told) {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS })
  const one = async () => {
    while (performance.now() < endsMs) {
      const answered = await ask(agent, node, body)
      told(answered)
      // A refused connection is refused at once: without a pause these are all that is counted.
      if (!answered) await sleep(5)
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, one))
  agent.destroy()
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
