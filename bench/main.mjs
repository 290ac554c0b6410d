// Benchmarks: `npm run bench -- SUITE [--quick] [--json FILE]`.
//
// A suite compares outputs first and measures then. It answers with rows of one shape,
// {suite, name, params, value, unit, ratios: {PEER: number}}, where a ratio is ours over the peer's, both taken
// in this run. A row of something that happens over time has a `timeline` besides:
// {windowMs, windows: [{answered, refused}], marks: [{atMs, what}]}. With --json the rows are written to FILE and a plot beside it (FILE with .svg).
import { parseArgs } from 'node:util'

import { describeMachine, printRows, writeReport } from './report.mjs'

const SUITES = {
  kernel: 'each implementation of AES-256-GCM batches against node:crypto and OpenSSL EVP',
  service: 'a running server against one that only echoes the same bytes',
  'key-stores': 'wraps a second of each key store, and what the data-key cache makes of it',
  faults: 'throughput and errors over time while what a server needs is stopped and comes back',
  streams: 'files sealed and opened, against age, OpenSSL, the AWS Encryption SDK and cp',
  kms: 'the AWS KMS protocol against an echo, and what each mode of the audit log costs',
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})

const [name] = positionals
if (values.help || name === undefined || !(name in SUITES)) {
  console.log('Usage: npm run bench -- SUITE [--quick] [--json FILE]\n')
  for (const [suite, what] of Object.entries(SUITES)) console.log(`  ${suite.padEnd(12)}${what}`)
  console.log(
    '\n  --quick      at most a minute, fewer sizes\n  --json FILE  write the rows, and a plot beside them',
  )
  process.exit(values.help ? 0 : 2)
}

const machine = describeMachine()
console.error(`${name}: ${machine.cpu}, ${machine.cores} cores, Node ${machine.node}`)
const { run } = await import(`./${name}.mjs`)
const rows = await run({
  quick: values.quick,
  progress: (line) => console.error(`  ${line}`),
  /** Figures of this machine that a suite measures itself. */
  describe: (figures) => Object.assign(machine, figures),
})
printRows(rows)
if (values.json !== undefined) {
  const written = writeReport(values.json, { machine, rows })
  console.error(`written: ${written.join(', ')}`)
}
