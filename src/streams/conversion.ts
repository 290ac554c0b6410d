/** Bytes in, other bytes out: what streams, web streams and buffers have in common. */

export interface Conversion {
  /**
   * Resolves when more may come; calls follow each other. Throws what ends the conversion. Once something was written,
   * nothing of a chunk of at most FRAME_RUN_BYTES is read any more when the call returns.
   */
  write(chunk: Uint8Array): Promise<void>
  /** Resolves when all has left. */
  end(): Promise<void>
  /** Gives up and wipes; also after the end. */
  destroy(): void
}

/** Hands bytes on; the promise, if there is one, resolves when more are wanted. */
export type Emit = (bytes: Uint8Array) => Promise<void> | undefined

/** What a stream holds at either end before it asks the source to wait: a chunk of 1 MiB is read while one is worked on. */
export const HIGH_WATER_BYTES = 2 * 2 ** 20

/** Throws TypeError: text would otherwise be taken for bytes of some encoding. */
export function checkChunk(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk
  throw new TypeError('files and streams are bytes: a Uint8Array is needed')
}
