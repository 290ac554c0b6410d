// An engine whose clock says that deletions are due, and that is killed at the n-th time it comes to a chosen step:
// DATA-DIRECTORY STEP TIMES CLOCK-AHEAD-MS.
import { open } from 'node:fs/promises'

import { loadConfig } from '../dist/config.js'
import { openEngine } from '../dist/engine.js'

const [dataDirectory, step, times, aheadMs] = process.argv.slice(2)
let left = Number(times)
const reach = (name) => {
  if (name === step && --left === 0) process.kill(process.pid, 'SIGKILL')
}
const handle = await open('/dev/null')
const prototype = Object.getPrototypeOf(handle)
const { appendFile, sync } = prototype
let line = ''
prototype.appendFile = async function (text) {
  line = text
  if (text.startsWith('scrubbed')) reach('after the scrubbing')
  if (text.startsWith('key ')) {
    reach('before the log')
    if (step === 'half a line' && left === 1) await appendFile.call(this, text.slice(0, 20))
    reach('half a line')
  }
  return appendFile.call(this, text)
}
prototype.sync = async function () {
  await sync.call(this)
  if (line.startsWith('key ')) reach('between log and commit')
}
const engine = await openEngine(loadConfig({ flags: { data: dataDirectory } }), {
  log: console.error,
  wallClockMs: () => Date.now() + Number(aheadMs),
})
engine.kms.registry.onChange(() => reach('after the commit'))
await engine.scheduler.run()
await engine.close()
