/**
 * The header of a file or stream in the AWS Encryption SDK's message format (specification, "Message Header").
 *
 *     version 2                               version 1
 *     1   version   02                        1   version   01
 *                                             1   type      80
 *     2   algorithm suite                     2   algorithm suite
 *     32  message id                          16  message id
 *     2   context bytes, 0 if empty           the same
 *     …   encryption context                  the same
 *     2   count of encrypted data keys        the same
 *     …   each: u16 ‖ provider id ‖ u16 ‖ provider info ‖ u16 ‖ ciphertext
 *     1   content type: 02 framed, 01 not     the same
 *                                             4   zeros
 *                                             1   IV bytes  0C
 *     4   frame length, 0 if not framed       the same
 *     32  commitment
 *     -- the body ends here: it is the header tag's AAD --
 *                                             12  IV
 *     16  tag                                 16  tag
 *
 * Frames follow (encryption-sdk-frames.ts), and behind them the footer of a signing suite: u16 ‖ DER signature over
 * everything before it.
 */
import { KeyfoldError } from '../errors.ts'
import {
  CONTEXT_BYTES_MAX,
  ENCRYPTED_DATA_KEYS_DEFAULT,
  FRAME_BYTES_READ_MAX,
  HEADER_BYTES_MAX,
} from '../limits.ts'
import { Reader, Writer } from './bytes.ts'
import { algorithmSuite, type AlgorithmSuite } from './encryption-sdk-suites.ts'
import { TAG_BYTES } from './message.ts'

export const IV_BYTES = 12
export const COMMITMENT_BYTES = 32
const TYPE_CUSTOMER_DATA = 0x80
const NOT_FRAMED = 1
const FRAMED = 2
const RESERVED_BYTES = 4

/** One wrapping of the data key, as the header carries it. */
export interface EncryptedDataKey {
  /** `aws-kms`, or a namespace of the caller's. */
  readonly providerId: string
  /** What the provider finds its key by: a key ARN, or a name and whatever wrapping needs besides. */
  readonly providerInfo: Uint8Array
  readonly ciphertext: Uint8Array
}

export interface MessageHeader {
  readonly suite: AlgorithmSuite
  /** 32 bytes in version 2, 16 in version 1. */
  readonly messageId: Uint8Array
  /** What is stored of the encryption context: in canonical bytes what we write, in any order what we read. */
  readonly context: Uint8Array
  /** At least one. */
  readonly encryptedDataKeys: readonly EncryptedDataKey[]
  /** Plaintext bytes of every frame but the last. 0: the body is one block, not framed. */
  readonly frameLength: number
  /** 32 bytes; empty where the suite does not commit. */
  readonly commitment: Uint8Array
}

export interface SealedHeader {
  readonly header: MessageHeader
  /** What the tag authenticates, a view. */
  readonly body: Uint8Array
  readonly iv: Uint8Array
  readonly tag: Uint8Array
}

export function encodeHeaderBody(header: MessageHeader): Uint8Array {
  const { suite, messageId, context, encryptedDataKeys, frameLength, commitment } = header
  const first = suite.formatVersion === 1
  const providerIds = encryptedDataKeys.map(({ providerId }) => Buffer.from(providerId))
  let bytes = 1 + (first ? 1 : 0) + 2 + messageId.length + 2 + context.length + 2
  for (const [i, { providerInfo, ciphertext }] of encryptedDataKeys.entries()) {
    bytes += 6 + (providerIds[i] as Buffer).length + providerInfo.length + ciphertext.length
  }
  bytes += 1 + (first ? RESERVED_BYTES + 1 : 0) + 4 + commitment.length
  const writer = new Writer(new Uint8Array(bytes)).u8(suite.formatVersion)
  if (first) writer.u8(TYPE_CUSTOMER_DATA)
  writer.u16(suite.id).put(messageId).u16(context.length).put(context)
  writer.u16(encryptedDataKeys.length)
  for (const [i, { providerInfo, ciphertext }] of encryptedDataKeys.entries()) {
    const providerId = providerIds[i] as Buffer
    writer.u16(providerId.length).put(providerId)
    writer.u16(providerInfo.length).put(providerInfo)
    writer.u16(ciphertext.length).put(ciphertext)
  }
  writer.u8(frameLength === 0 ? NOT_FRAMED : FRAMED)
  if (first) writer.u32(0).u8(IV_BYTES)
  return writer.u32(frameLength).put(commitment).bytes
}

/**
 * How many bytes the header has in all; while that cannot be told yet, a number greater than those that are there:
 * nothing more is known before there are so many. Throws STREAM_MALFORMED as soon as a bound is passed.
 */
export function measureHeader(
  bytes: Uint8Array,
  encryptedDataKeysMax: number = ENCRYPTED_DATA_KEYS_DEFAULT,
): number {
  if (bytes.length === 0) return 1
  const first = checkVersion(bytes) === 1
  let at = first ? 2 + 2 + 16 : 1 + 2 + 32
  if (bytes.length < at + 2) return at + 2
  const contextBytes = u16At(bytes, at)
  if (contextBytes > CONTEXT_BYTES_MAX) {
    throw malformed(`the context has ${contextBytes} bytes, ${CONTEXT_BYTES_MAX} are allowed`)
  }
  at += 2 + contextBytes
  if (bytes.length < at + 2) return at + 2
  const count = u16At(bytes, at)
  if (count === 0) throw malformed('there is no encrypted data key')
  if (count > encryptedDataKeysMax) {
    throw malformed(`${count} encrypted data keys, ${encryptedDataKeysMax} are allowed`)
  }
  at += 2
  for (let field = 0; field < 3 * count; field++) {
    if (bytes.length < at + 2) return at + 2
    at += 2 + u16At(bytes, at)
    if (at > HEADER_BYTES_MAX) throw malformed(`the header is longer than ${HEADER_BYTES_MAX}`)
  }
  return at + (first ? 1 + RESERVED_BYTES + 1 + 4 + IV_BYTES : 1 + 4 + COMMITMENT_BYTES) + TAG_BYTES
}

/** The whole header, measured before. Views of `bytes`. Throws STREAM_MALFORMED. */
export function decodeHeader(bytes: Uint8Array): SealedHeader {
  const reader = new Reader(bytes, 'STREAM_MALFORMED')
  const version = reader.u8()
  if (version === 1 && reader.u8() !== TYPE_CUSTOMER_DATA) throw reader.malformed('unknown type')
  const suite = algorithmSuite(reader.u16())
  if (suite === undefined) throw reader.malformed('unknown algorithm suite')
  if (suite.formatVersion !== version) {
    throw reader.malformed('the algorithm suite is of another version')
  }
  const messageId = reader.take(version === 1 ? 16 : 32)
  const context = reader.take(reader.u16())
  const encryptedDataKeys = Array.from({ length: reader.u16() }, () => readEncryptedDataKey(reader))
  const contentType = reader.u8()
  if (contentType !== FRAMED && contentType !== NOT_FRAMED) {
    throw reader.malformed('unknown content type')
  }
  if (version === 1 && (reader.u32() !== 0 || reader.u8() !== IV_BYTES)) {
    throw reader.malformed('unknown IV length')
  }
  const frameLength = reader.u32()
  if ((contentType === FRAMED) !== frameLength > 0)
    throw reader.malformed('impossible frame length')
  if (frameLength > FRAME_BYTES_READ_MAX) {
    throw reader.malformed(`frames of ${frameLength} bytes, ${FRAME_BYTES_READ_MAX} are allowed`)
  }
  const commitment = reader.take(suite.commits ? COMMITMENT_BYTES : 0)
  const body = bytes.subarray(0, reader.offset)
  const iv = version === 1 ? reader.take(IV_BYTES) : HEADER_IV
  const tag = reader.take(TAG_BYTES)
  reader.end()
  const header = { suite, messageId, context, encryptedDataKeys, frameLength, commitment }
  return { header, body, iv, tag }
}

/** The header's IV; frames are numbered from 1, so none has it again. */
export const HEADER_IV: Uint8Array = new Uint8Array(IV_BYTES)

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function readEncryptedDataKey(reader: Reader): EncryptedDataKey {
  const providerIdBytes = reader.take(reader.u16())
  let providerId: string
  try {
    providerId = decoder.decode(providerIdBytes)
  } catch {
    throw reader.malformed('a provider id is not UTF-8')
  }
  const providerInfo = reader.take(reader.u16())
  return { providerId, providerInfo, ciphertext: reader.take(reader.u16()) }
}

/** Of base64, the first bytes look like text; people paste it. */
function checkVersion([version]: Uint8Array): 1 | 2 {
  if (version === 1 || version === 2) return version
  throw malformed(
    version === 0x41 /* A */ ? 'this looks like base64, decode it first' : 'unknown version',
  )
}

function u16At(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number)
}

function malformed(detail: string): KeyfoldError {
  return new KeyfoldError('STREAM_MALFORMED', detail)
}
