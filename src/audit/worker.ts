/**
 * The audit worker: one thread that chains, writes and syncs, so that no disk holds up the event loop. It has one group
 * at a time; one that the disk refuses is tried again until the disk takes it.
 */
import { closeSync, fdatasyncSync, openSync } from 'node:fs'
import { parentPort, workerData, type MessagePort } from 'node:worker_threads'

import { AUDIT_RETRY_MS } from '../limits.ts'
import { ChainWriter } from './chain-writer.ts'
import type { EventGroup } from './event.ts'
import { listChains } from './files.ts'
import type { FromWorker, ToWorker, WorkerStart } from './messages.ts'
import { chooseEncodeEvents } from './native-lines.ts'
import { scanChain } from './scan.ts'

const start = workerData as WorkerStart
const port = parentPort as MessagePort
const tell = (message: FromWorker): void => port.postMessage(message)

const recovered = start.lost === undefined ? 0 : recover(start.directory, start.lost)
const writer = new ChainWriter({ ...start, encodeEvents: chooseEncodeEvents(start.native) })
tell({ kind: 'ready', chain: writer.chain, sequence: writer.sequence, recovered })

let group: EventGroup | undefined
let retry: NodeJS.Timeout | undefined

port.on('message', (message: ToWorker) => {
  if (message.kind === 'group') {
    group = message.group
    append()
  } else {
    close()
  }
})

function append(): void {
  if (group === undefined) return
  try {
    writer.append(group)
  } catch (error) {
    tell({ kind: 'failed', message: (error as Error).message })
    retry = setTimeout(append, AUDIT_RETRY_MS)
    return
  }
  group = undefined
  tell({ kind: 'durable', sequence: writer.sequence, syncSeconds: writer.syncSeconds })
}

function close(): void {
  clearTimeout(retry)
  append()
  clearTimeout(retry)
  try {
    writer.close()
  } catch (error) {
    tell({ kind: 'failed', message: (error as Error).message })
  }
  tell({ kind: 'closed' })
  port.close()
}

/**
 * How many records of its last group a lost worker has written: a group never spans files, so they are in the last one
 * that holds anything. They are synced before anyone counts on them.
 */
function recover(
  directory: string,
  { chain, sequence }: { readonly chain: string; readonly sequence: number },
): number {
  const files = listChains(directory).get(chain) ?? []
  let records = 0
  scanChain(
    files,
    (line) => {
      const isEvent = line.header === undefined && line.closing === undefined
      if (isEvent && line.sequence > sequence) records++
    },
    { fromLastFile: true },
  )
  for (const { path } of files.slice(-2)) {
    const handle = openSync(path, 'r')
    fdatasyncSync(handle)
    closeSync(handle)
  }
  return records
}
