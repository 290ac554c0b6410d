// A rotation of the root key that is killed before the n-th of its steps: DATA-DIRECTORY KIND N. A step is something
// done to a file (kind `file`) or a statement sent to the catalog (kind `sql`). It prints how many there were.
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { Worker } from 'node:worker_threads'

const [dataDirectory, kind, n] = process.argv.slice(2)
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
} else {
  const { postMessage } = Worker.prototype
  Worker.prototype.postMessage = function (...parameters) {
    step()
    return postMessage.apply(this, parameters)
  }
}
const { loadConfig } = await import('../dist/config.js')
const { rotateRootKey } = await import('../dist/root-key.js')
begun = true
await rotateRootKey(loadConfig({ flags: { data: dataDirectory } }), { log: () => undefined })
console.log(steps)
