// A caller on a thread of its own, who sends a body as fast as the socket takes it and reads the answer meanwhile, into
// memory that is used again. Posts {status, answerBytes, whole}, where whole is whether the answer has its end.
import { connect } from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'

const { port, path, token, parts, partBytes } = workerData
const END = '0\r\n\r\n'
const part = Buffer.alloc(partBytes)
const into = Buffer.alloc(partBytes)
let status
let answerBytes = 0
let last = ''

const callback = (bytes) => {
  status ??= into.toString('latin1', 9, 12)
  answerBytes += bytes
  last = (last + into.toString('latin1', Math.max(0, bytes - END.length), bytes)).slice(-END.length)
  if (left === 0 && last === END) socket.destroy()
  return true
}
const socket = connect({ port, host: '127.0.0.1', onread: { buffer: into, callback } })
socket.on('error', () => undefined)
socket.on('close', () => parentPort.postMessage({ status, answerBytes, whole: last === END }))
const head = ['Host: keyfold', 'Transfer-Encoding: chunked', `Authorization: Bearer ${token}`]
socket.write(`PUT ${path} HTTP/1.1\r\n${head.join('\r\n')}\r\n\r\n`)
let left = parts
const writeOn = () => {
  for (; left > 0; left--) {
    socket.cork()
    socket.write(`${partBytes.toString(16)}\r\n`)
    socket.write(part)
    const more = socket.write('\r\n')
    socket.uncork()
    if (more) continue
    left--
    socket.once('drain', writeOn)
    return
  }
  socket.write(END)
}
writeOn()
