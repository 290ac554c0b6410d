/**
 * What a file in the AWS Encryption SDK's format says of itself, without any key. Nothing of it is proven.
 *
 * How long its plaintext is, is told by its length and one frame:
 *
 *     header ‖ n - 1 frames of L + 32 bytes ‖ final frame of f + 40 bytes, 0 ≤ f ≤ L ‖ (u16 ‖ signature)
 */
import { decodeUnsortedContext } from '../../format/encryption-context.ts'
import { IV_BYTES, type EncryptedDataKey, type MessageHeader } from '../../format/encryption-sdk.ts'
import {
  BLOCK_HEAD_BYTES,
  decodeBlockLength,
  FINAL_FRAME_OVERHEAD_BYTES,
  FRAME_OVERHEAD_BYTES,
} from '../../format/encryption-sdk-frames.ts'
import { algorithmSuite, type AlgorithmSuite } from '../../format/encryption-sdk-suites.ts'
import { TAG_BYTES } from '../../format/message.ts'
import { readExactly, readFileHeader, type PositionalFile } from '../../streams/positional.ts'

/** More than the 8 that are opened by default: what has too many should be told of, too. */
const ENCRYPTED_DATA_KEYS_MAX = 64
/** Of a final frame, before its ciphertext. */
const FINAL_HEAD_BYTES = FINAL_FRAME_OVERHEAD_BYTES - TAG_BYTES
const FINAL_MARKER = 0xffffffff

/** By its first bytes: nothing else that is inspected begins with these. */
export function isEncryptionSdkFile([version, second = 0, third = 0]: Uint8Array): boolean {
  if (version === 1) return second === 0x80
  return version === 2 && algorithmSuite((second << 8) | third) !== undefined
}

export interface FileInspection {
  readonly form: 'Encryption SDK file'
  readonly suite: string
  readonly messageId: string
  /** Provider and what it calls its key by. */
  readonly keys: readonly string[]
  readonly context: Readonly<Record<string, string>>
  /** 0: not framed. */
  readonly frameBytes: number
  /** These three where the whole file is there, and are left out where it ends otherwise than it should. */
  readonly bytes?: number
  readonly frames?: number
  readonly plaintextBytes?: number
}

/** Errors: STREAM_MALFORMED. */
export async function inspectFile(file: PositionalFile): Promise<FileInspection> {
  const { sealed, headerBytes } = await readFileHeader(file, ENCRYPTED_DATA_KEYS_MAX)
  const { suite, frameLength } = sealed.header
  const { size } = await file.stat()
  const place = { size, headerBytes, signed: suite.signature !== undefined }
  const body =
    frameLength === 0 ? await blockOf(file, place) : await framesOf(file, { ...place, frameLength })
  return { ...headerOf(sealed.header), bytes: size, ...body }
}

function headerOf({
  suite,
  messageId,
  encryptedDataKeys,
  context,
  frameLength,
}: MessageHeader): FileInspection {
  return {
    form: 'Encryption SDK file',
    suite: nameOf(suite),
    messageId: Buffer.from(messageId).toString('hex'),
    keys: encryptedDataKeys.map(keyOf),
    context: Object.fromEntries(decodeUnsortedContext(context)),
    frameBytes: frameLength,
  }
}

function nameOf({ id, keyBytes, kdfHash, commits, signature }: AlgorithmSuite): string {
  const words = [`AES-${8 * keyBytes}-GCM`]
  if (kdfHash !== undefined) words.push(`HKDF-${kdfHash.toUpperCase()}`)
  words.push(commits ? 'commits to its key' : 'does not commit to its key')
  if (signature !== undefined) words.push(`signed by ${signature}`)
  return `${id.toString(16).padStart(4, '0')} ${words.join(', ')}`
}

/** A raw AES keyring's: name ‖ u32 tag bits ‖ u32 IV bytes ‖ IV. */
const RAW_AES_TRAILER = Buffer.from([0, 0, 0, 8 * TAG_BYTES, 0, 0, 0, IV_BYTES])

function keyOf({ providerId, providerInfo }: EncryptedDataKey): string {
  const bytes = Buffer.from(providerInfo)
  const nameEnd = bytes.length - IV_BYTES - RAW_AES_TRAILER.length
  const isAes = nameEnd > 0 && bytes.subarray(nameEnd, -IV_BYTES).equals(RAW_AES_TRAILER)
  const name = isAes ? bytes.subarray(0, nameEnd) : bytes
  const text = name.toString()
  return `${providerId} ${Buffer.from(text).equals(name) ? text : name.toString('hex')}`
}

interface Place {
  readonly size: number
  readonly headerBytes: number
  readonly signed: boolean
}

type Body = Pick<FileInspection, 'frames' | 'plaintextBytes'>

async function blockOf(file: PositionalFile, place: Place): Promise<Body> {
  const { size, headerBytes } = place
  if (size < headerBytes + BLOCK_HEAD_BYTES) return {}
  const plaintextBytes = decodeBlockLength(
    await readExactly(file, headerBytes, Buffer.alloc(BLOCK_HEAD_BYTES)),
  )
  const end = headerBytes + BLOCK_HEAD_BYTES + plaintextBytes + TAG_BYTES
  return (await isEnd(file, end, place)) ? { plaintextBytes } : {}
}

/** The final frame is the one that the length leaves room for, or, behind it, a signature takes the room of one more. */
async function framesOf(
  file: PositionalFile,
  place: Place & { readonly frameLength: number },
): Promise<Body> {
  const { size, headerBytes, frameLength } = place
  const perFrame = frameLength + FRAME_OVERHEAD_BYTES
  const bodyBytes = size - headerBytes - FINAL_FRAME_OVERHEAD_BYTES
  const before = Math.floor(bodyBytes / perFrame)
  // A signature is shorter than 128 bytes, and a frame longer than 32.
  for (let index = before; index >= Math.max(0, before - 4); index--) {
    const at = headerBytes + index * perFrame
    const head = await readExactly(file, at, Buffer.alloc(FINAL_HEAD_BYTES))
    if (head.readUInt32BE(0) !== FINAL_MARKER || head.readUInt32BE(4) !== index + 1) continue
    const finalBytes = head.readUInt32BE(FINAL_HEAD_BYTES - 4)
    const end = at + FINAL_FRAME_OVERHEAD_BYTES + finalBytes
    if (finalBytes > frameLength || !(await isEnd(file, end, place))) continue
    return { frames: index + 1, plaintextBytes: index * frameLength + finalBytes }
  }
  return {}
}

async function isEnd(file: PositionalFile, at: number, { size, signed }: Place): Promise<boolean> {
  if (!signed) return at === size
  if (at + 2 > size) return false
  return at + 2 + (await readExactly(file, at, Buffer.alloc(2))).readUInt16BE(0) === size
}

/** A file of whose bytes only the first are there, as of a pipe: its length is not known. */
export async function inspectBeginning(bytes: Buffer): Promise<FileInspection> {
  const { sealed } = await readFileHeader(inMemory(bytes), ENCRYPTED_DATA_KEYS_MAX)
  return headerOf(sealed.header)
}

function inMemory(bytes: Buffer): PositionalFile {
  return {
    read: (into, offset, length, position) => {
      const from = bytes.subarray(position, position + length)
      into.set(from, offset)
      return Promise.resolve({ bytesRead: from.length })
    },
    stat: () => Promise.resolve({ size: bytes.length }),
  }
}
