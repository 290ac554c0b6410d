/**
 * The same for web streams: pairs for `pipeThrough`. Made of two streams, not a TransformStream, which on Node 20 does
 * not say that its reader has gone: the key would wait for the garbage collector.
 */
import {
  ByteLengthQueuingStrategy,
  ReadableStream,
  WritableStream,
  type ReadableStreamDefaultController,
  type ReadableWritablePair,
  type WritableStreamDefaultController,
} from 'node:stream/web'

import { KeyfoldError } from '../errors.ts'
import { checkChunk, HIGH_WATER_BYTES, type Conversion, type Emit } from './conversion.ts'
import type { Keyring } from './keyring.ts'
import { MessageOpener } from './message-opener.ts'
import { MessageSealer } from './message-sealer.ts'
import type { DecryptFileOptions, EncryptFileOptions } from './options.ts'

/** It has had one since Node 18; the types of Node 20 do not say so. */
interface AbortableController {
  readonly signal: AbortSignal
}

export type WebTransform = ReadableWritablePair<Uint8Array, Uint8Array>

/** As encryptStream, for `pipeThrough`. */
export function encryptWebStream(keyring: Keyring, options: EncryptFileOptions = {}): WebTransform {
  return createWebTransform((emit) => new MessageSealer(keyring, options, emit))
}

/** As decryptStream, for `pipeThrough`. */
export function decryptWebStream(keyring: Keyring, options: DecryptFileOptions = {}): WebTransform {
  return createWebTransform((emit) => new MessageOpener(keyring, options, emit))
}

export function createWebTransform(create: (emit: Emit) => Conversion): WebTransform {
  let reader!: ReadableStreamDefaultController<Uint8Array>
  let writer!: WritableStreamDefaultController
  /** Set while the reader has enough. */
  let wanted: (() => void) | undefined
  const resume = (): void => {
    wanted?.()
    wanted = undefined
  }
  const conversion = create((bytes) => {
    if (bytes.length > 0) reader.enqueue(bytes)
    if ((reader.desiredSize ?? 0) > 0) return undefined
    return new Promise((resolve) => (wanted = resolve))
  })
  const fail = (error: unknown): void => {
    conversion.destroy()
    reader.error(error)
    resume()
  }
  const failing = async (work: () => Promise<void>): Promise<void> => {
    try {
      await work()
    } catch (error) {
      fail(error)
      throw error
    }
  }
  const highWaterMark = HIGH_WATER_BYTES
  const readable = new ReadableStream<Uint8Array>(
    {
      start: (controller) => {
        reader = controller
      },
      pull: resume,
      cancel: (reason) => {
        conversion.destroy()
        writer.error(reason ?? new KeyfoldError('ABORTED'))
        resume()
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark }),
  )
  const writable = new WritableStream<Uint8Array>(
    {
      start: (controller) => {
        writer = controller
        // abort() of the sink would only be called once the write that is under way is over.
        const { signal } = controller as WritableStreamDefaultController & AbortableController
        signal.addEventListener('abort', () => fail(signal.reason))
      },
      write: (chunk) => failing(() => conversion.write(checkChunk(chunk))),
      close: () =>
        failing(async () => {
          await conversion.end()
          reader.close()
        }),
    },
    // What has no length gets as far as write(), which refuses it at both ends.
    { highWaterMark, size: (chunk) => (chunk instanceof Uint8Array ? chunk.length : 0) },
  )
  return { readable, writable }
}
