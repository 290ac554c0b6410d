// The peer `echo`: the same front end, and nothing in between. POST /echo/BYTES receives a body into a slot and sends an
// answer as keyfold does, that many bytes from a preallocated buffer. PUT /echo writes each part of the body as it comes,
// chunked, whether the caller takes it or not: no server could do less.
import { BoundedSlotPool } from '../dist/pool/slot-pool.js'
import { Exchange } from '../dist/server/exchange.js'
import { MSGPACK_TYPE, STATUS_OK } from '../dist/server/http.js'
import { createApp, listen, portOf } from '../dist/server/uws.js'

const ANSWER_BYTES_MAX = 128 * 2 ** 20
const memory = new Uint8Array(ANSWER_BYTES_MAX)
const slots = new BoundedSlotPool(2 ** 30)
const app = createApp(undefined)

app.post('/echo/:bytes', (response, request) => {
  const end = Number(request.getParameter(0))
  const length = Number(request.getHeader('content-length'))
  const exchange = new Exchange(response, {
    method: 'post',
    secureTransport: false,
    over: () => undefined,
  })
  const received = (body) => {
    // As keyfold does with what it cannot answer at once: large bodies arrive in a slot anyway.
    body.release()
    exchange.send(STATUS_OK, MSGPACK_TYPE, { memory, offset: 0, end, release: () => undefined })
  }
  exchange.receive(slots, ANSWER_BYTES_MAX, length, received, (error) => {
    throw error
  })
})

app.put('/echo', (response) => {
  let gone = false
  response.onAborted(() => (gone = true))
  response.onData((chunk, isLast) => {
    if (gone) return
    response.cork(() => {
      if (chunk.byteLength > 0) response.write(chunk)
      if (isLast) response.end()
    })
  })
})

const socket = await listen(app, '127.0.0.1', 0)
console.log(JSON.stringify({ url: `http://127.0.0.1:${portOf(socket)}` }))
