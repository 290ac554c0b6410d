/** Reading a file by position, as a FileHandle of node:fs/promises does. */
import { KeyfoldError } from '../errors.ts'
import { decodeHeader, measureHeader, type SealedHeader } from '../format/encryption-sdk.ts'

/** What is needed of a FileHandle; anything else that reads by position will do, too. It stays the caller's to close. */
export interface PositionalFile {
  read(
    into: Uint8Array,
    offset: number,
    length: number,
    position: number,
  ): Promise<{ readonly bytesRead: number }>
  stat(): Promise<{ readonly size: number }>
}

/** As many bytes as `into` has. Throws STREAM_MALFORMED where the file ends before. */
export async function readExactly(
  file: PositionalFile,
  position: number,
  into: Buffer,
): Promise<Buffer> {
  const found = await readUpTo(file, position, into)
  if (found < into.length) throw new KeyfoldError('STREAM_MALFORMED', 'truncated')
  return into
}

/** As many bytes as there are. */
export async function readUpTo(
  file: PositionalFile,
  position: number,
  into: Uint8Array,
): Promise<number> {
  let read = 0
  while (read < into.length) {
    const { bytesRead } = await file.read(into, read, into.length - read, position + read)
    if (bytesRead === 0) break
    read += bytesRead
  }
  return read
}

/** Enough for most headers. */
const FIRST_READ_BYTES = 4_096

/** The header, and how many bytes it has. Throws STREAM_MALFORMED. */
export async function readFileHeader(
  file: PositionalFile,
  encryptedDataKeysMax: number,
): Promise<{ readonly sealed: SealedHeader; readonly headerBytes: number }> {
  let into = Buffer.alloc(FIRST_READ_BYTES)
  for (;;) {
    const start = into.subarray(0, await readUpTo(file, 0, into))
    const headerBytes = measureHeader(start, encryptedDataKeysMax)
    if (headerBytes <= start.length) {
      return { sealed: decodeHeader(start.subarray(0, headerBytes)), headerBytes }
    }
    if (start.length < into.length) {
      throw new KeyfoldError('STREAM_MALFORMED', 'truncated in the header')
    }
    // It grows by a field at least, and its end is bounded.
    into = Buffer.alloc(headerBytes)
  }
}
