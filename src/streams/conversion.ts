/** Bytes in, other bytes out: what streams, web streams and buffers have in common. */

export interface Conversion {
  /**
   * Resolves when more may come; calls follow each other. Throws what ends the conversion. Once something was written,
   * a chunk of at most FRAME_RUN_BYTES is copied before the call returns.
   */
  write(chunk: Uint8Array): Promise<void>
  /** Resolves when all has left. */
  end(): Promise<void>
  /** Gives up and wipes; also after the end. */
  destroy(): void
}

/** What a stream holds at either end before it asks the source to wait. */
export const HIGH_WATER_BYTES = 2 ** 20

/** Throws TypeError: text would otherwise be taken for bytes of some encoding. */
export function checkChunk(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk
  throw new TypeError('files and streams are bytes: a Uint8Array is needed')
}
