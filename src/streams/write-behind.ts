/** Writing to a file while the next bytes are made: one write is under way at a time. */

/** What is needed of a FileHandle. It stays the caller's to close. */
export interface WritableFile {
  /** Where the file stands; some of the bytes, or all. */
  write(
    from: Uint8Array,
    offset: number,
    length: number,
  ): Promise<{ readonly bytesWritten: number }>
}

export class WriteBehind {
  readonly #file: WritableFile
  #writing: Promise<void> = Promise.resolve()

  constructor(file: WritableFile) {
    this.#file = file
  }

  /** Resolves when the write before this one is done, whose memory is free then. Throws what that one failed with. */
  async write(bytes: Uint8Array): Promise<void> {
    await this.#writing
    this.#writing = writeAll(this.#file, bytes)
    // Met by whoever writes next, or ends.
    this.#writing.catch(() => undefined)
  }

  /** Resolves when all is written. Throws what a write failed with. */
  async end(): Promise<void> {
    await this.#writing
  }
}

/** A disk that is about to be full takes a part: what is left is written, too. */
export async function writeAll(file: WritableFile, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at)
    if (bytesWritten === 0) throw new Error('the target takes no more bytes')
    at += bytesWritten
  }
}
