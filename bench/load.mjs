// One load on one URL: the same POST over and over, by wrk where it is installed (it needs a tenth of the
// processor that a JavaScript client needs, so that the server is what is measured), else by autocannon.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const scratch = mkdtempSync(join(tmpdir(), 'keyfold-bench-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

export const generator = spawnSync('wrk', ['-v']).error === undefined ? 'wrk' : 'autocannon'

/**
 * Answers {requestsPerSecond, latencyMsP50, latencyMsP99}. Throws when any answer was not a 2xx: a refused
 * request is no throughput.
 */
export async function load({ url, headers, body, connections, seconds }) {
  const measure = generator === 'wrk' ? loadByWrk : loadByAutocannon
  const { failures, ...figures } = await measure({ url, headers, body, connections, seconds })
  if (failures > 0) throw new Error(`${failures} requests to ${url} failed`)
  return figures
}

let scripts = 0

async function loadByWrk({ url, headers, body, connections, seconds }) {
  const bodyFile = join(scratch, `body-${scripts}`)
  const scriptFile = join(scratch, `load-${scripts++}.lua`)
  writeFileSync(bodyFile, body)
  const lines = Object.entries(headers).map(
    ([name, value]) => `wrk.headers[${JSON.stringify(name)}] = ${JSON.stringify(value)}`,
  )
  writeFileSync(
    scriptFile,
    `wrk.method = "POST"
${lines.join('\n')}
local file = io.open(${JSON.stringify(bodyFile)}, "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests":%d,"microseconds":%d,"failures":%d,"p50":%f,"p99":%f}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
`,
  )
  const options = [
    '-t',
    '1',
    '-c',
    String(connections),
    '-d',
    `${seconds}s`,
    '--timeout',
    '30s',
    '-s',
    scriptFile,
  ]
  const printed = await outputOf('wrk', [...options, url])
  rmSync(bodyFile)
  const figures = JSON.parse(printed.trim().split('\n').at(-1))
  return {
    requestsPerSecond: figures.requests / (figures.microseconds / 1e6),
    latencyMsP50: figures.p50 / 1000,
    latencyMsP99: figures.p99 / 1000,
    failures: figures.failures,
  }
}

async function loadByAutocannon({ url, headers, body, connections, seconds }) {
  const { default: autocannon } = await import('autocannon')
  const result = await autocannon({
    url,
    method: 'POST',
    headers,
    body,
    connections,
    duration: seconds,
    timeout: 30,
  })
  return {
    requestsPerSecond: result.requests.total / result.duration,
    latencyMsP50: result.latency.p50,
    latencyMsP99: result.latency.p99,
    failures: result.non2xx + result.errors + result.timeouts,
  }
}

function outputOf(command, argv) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
    let printed = ''
    child.stdout.on('data', (chunk) => (printed += chunk))
    child.on('error', reject)
    child.on('close', (status) =>
      status === 0 ? resolve(printed) : reject(new Error(`${command} ended with ${status}`)),
    )
  })
}
