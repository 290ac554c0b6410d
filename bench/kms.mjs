// The AWS KMS protocol as its clients speak it: single requests, signed, in JSON. Beside it a server on the same
// front end that assembles the same body and answers as many bytes through the same response function, and the same
// server in each mode of the audit log. All are loaded in turn, several rounds, and the medians compared.
import { randomBytes } from 'node:crypto'
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { generator, load } from './load.mjs'
import { median } from './report.mjs'
import { post, serveKnows, startEcho, startKeyfold } from './servers.mjs'
import { signKmsRequest } from './sign.mjs'

const AUDIT_MODES = ['off', 'bounded', 'strict']
const CONNECTIONS = [1, 64]
const CONTEXT = { table: 'orders', tenant: '4711' }
const PLAINTEXT_BYTES = 32
/** Four servers, three operations, two numbers of connections: the quick one takes 48 seconds of load. */
const LOADS = { quick: { rounds: 2, seconds: 1 }, full: { rounds: 5, seconds: 3 } }

export async function run({ quick, progress, describe }) {
  const fdatasyncMsP50 = measureFdatasync()
  describe({ fdatasyncMsP50 })
  progress(`fdatasync of 4 KiB in ${tmpdir()}: ${fdatasyncMsP50.toFixed(3)} ms, median of 200`)
  progress(`load by ${generator}`)
  const audited = serveKnows('--audit')
  if (!audited) progress('this build has no audit log: measured without')

  const echo = await startEcho()
  const servers = []
  const rows = []
  try {
    for (const audit of audited ? AUDIT_MODES : ['off']) {
      const server = await startKeyfold(audited ? ['--audit', audit] : [])
      servers.push({ audit, server, operations: await prepareOperations(server) })
    }
    for (const operation of Object.keys(servers[0].operations)) {
      for (const connections of CONNECTIONS) {
        const loads = quick ? LOADS.quick : LOADS.full
        const measured = await measure({ operation, connections, servers, echo, ...loads })
        for (const row of measured) progress(`${row.name}: ${Math.round(row.value)} requests/s`)
        rows.push(...measured)
      }
    }
  } finally {
    for (const { server } of servers) await server.stop()
    await echo.stop()
  }
  return rows
}

/** Each operation's input and how long its answer is, once all three agree with each other. */
async function prepareOperations(server) {
  const KeyId = server.keyId
  const context = { EncryptionContext: CONTEXT }
  const plaintext = randomBytes(PLAINTEXT_BYTES)
  const inputs = {
    GenerateDataKey: { KeyId, KeySpec: 'AES_256', ...context },
    Encrypt: { KeyId, Plaintext: plaintext.toString('base64'), ...context },
  }
  const made = await ask(server, 'GenerateDataKey', inputs.GenerateDataKey)
  const encrypted = await ask(server, 'Encrypt', inputs.Encrypt)
  inputs.Decrypt = { KeyId, CiphertextBlob: encrypted.value.CiphertextBlob, ...context }
  const decrypted = await ask(server, 'Decrypt', inputs.Decrypt)
  const opened = await ask(server, 'Decrypt', {
    CiphertextBlob: made.value.CiphertextBlob,
    ...context,
  })
  if (decrypted.value.Plaintext !== inputs.Encrypt.Plaintext) {
    throw new Error('the server does not decrypt what it encrypted')
  }
  const dataKey = Buffer.from(made.value.Plaintext, 'base64')
  if (dataKey.length !== 32 || opened.value.Plaintext !== made.value.Plaintext) {
    throw new Error('the server does not open the data key that it made')
  }
  const answers = { GenerateDataKey: made, Encrypt: encrypted, Decrypt: decrypted }
  return Object.fromEntries(
    Object.entries(inputs).map(([operation, input]) => [
      operation,
      { input, answerBytes: answers[operation].bytes },
    ]),
  )
}

async function ask(server, operation, input) {
  const { headers, body } = await signKmsRequest(server.ready, operation, input)
  const answer = await post(`${server.url}/`, headers, body)
  return { value: JSON.parse(answer.toString()), bytes: answer.length }
}

/** One row for each server. Every other round goes the other way round, so that none always follows the same one. */
async function measure({ operation, connections, servers, echo, rounds, seconds }) {
  const echoed = []
  const figures = new Map(servers.map(({ audit }) => [audit, []]))
  const [first] = servers
  const targets = [
    async () => {
      const { input, answerBytes } = first.operations[operation]
      const request = await signKmsRequest(first.server.ready, operation, input)
      const url = `${echo.url}/echo/${answerBytes}`
      echoed.push(await load({ ...request, url, connections, seconds }))
    },
    ...servers.map(({ audit, server, operations }) => async () => {
      const request = await signKmsRequest(server.ready, operation, operations[operation].input)
      const url = `${server.url}/`
      figures.get(audit).push(await load({ ...request, url, connections, seconds }))
    }),
  ]
  for (let round = 0; round < rounds; round++) {
    for (const target of round % 2 === 0 ? targets : targets.toReversed()) await target()
  }
  const rate = (loads) => median(loads.map(({ requestsPerSecond }) => requestsPerSecond))
  return servers.map(({ audit, server }) => {
    const ours = figures.get(audit)
    const auditOff = audit === 'off' ? {} : { auditOff: rate(ours) / rate(figures.get('off')) }
    return {
      suite: 'kms',
      name: `${operation}, ${connections} connection${connections === 1 ? '' : 's'}, audit ${audit}`,
      params: {
        operation,
        connections,
        audit,
        implementation: server.implementation,
        latencyMsP50: median(ours.map(({ latencyMsP50 }) => latencyMsP50)),
        latencyMsP99: median(ours.map(({ latencyMsP99 }) => latencyMsP99)),
      },
      value: rate(ours),
      unit: 'requests/s',
      ratios: { echo: rate(ours) / rate(echoed), ...auditOff },
    }
  })
}

/** Milliseconds for 4 KiB appended and synced, where a `--dev` server keeps its audit log. TMPDIR says where. */
function measureFdatasync() {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-bench-'))
  try {
    const file = openSync(join(directory, 'synced'), 'w')
    const block = randomBytes(4096)
    const milliseconds = Array.from({ length: 200 }, () => {
      const startedMs = performance.now()
      writeSync(file, block)
      fdatasyncSync(file)
      return performance.now() - startedMs
    })
    closeSync(file)
    return median(milliseconds)
  } finally {
    rmSync(directory, { recursive: true })
  }
}
