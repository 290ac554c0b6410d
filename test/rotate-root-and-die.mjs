// A rotation of the root key that is killed before the n-th of its steps: DATA-DIRECTORY KIND N [CATALOG STAGE]. A step is
// something done to a file (kind `file`) or a statement sent to the catalog (kind `sql`, or `pg` of a shared one, whose
// rotation has two stages: `prepare` and `rotate`). It prints how many there were.
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { Worker } from 'node:worker_threads'
import pg from 'pg'

const [dataDirectory, kind, n, catalog, stage = 'rotate'] = process.argv.slice(2)
let steps = 0
let begun = false
const step = () => {
  if (begun && ++steps === Number(n)) process.kill(process.pid, 'SIGKILL')
}
if (kind === 'file') {
  for (const name of ['writeFileSync', 'renameSync', 'writeSync', 'fsyncSync', 'unlinkSync']) {
    const original = fs[name]
    fs[name] = (...parameters) => {
      step()
      return original(...parameters)
    }
  }
  syncBuiltinESMExports()
} else if (kind === 'pg') {
  const { query } = pg.Client.prototype
  pg.Client.prototype.query = function (...parameters) {
    // How often it looks whether nodes have confirmed is up to them; nothing is changed by it.
    if (!/^select/i.test(String(parameters[0]))) step()
    return query.apply(this, parameters)
  }
} else {
  const { postMessage } = Worker.prototype
  Worker.prototype.postMessage = function (...parameters) {
    step()
    return postMessage.apply(this, parameters)
  }
}
const { loadConfig } = await import('../dist/config.js')
const { prepareRootRotation, rotateRootKey } = await import('../dist/root-key.js')
const run = stage === 'prepare' ? prepareRootRotation : rotateRootKey
begun = true
await run(loadConfig({ flags: { data: dataDirectory, catalog } }), { log: () => undefined })
console.log(steps)
