/**
 * What a ciphertext says of itself to anyone who holds it: which form it is, under which KMS key and version of key
 * material, and how long its messages are. No key is needed, and nothing is checked that needs one: whoever wrote the
 * bytes may have lied.
 *
 * A form is a row of RECOGNIZERS; the first one that takes the bytes says what they are.
 */
import { KeyfoldError } from '../errors.ts'
import { COMMITMENT_BYTES, DATA_KEY_ID_BYTES, decodeKeyEntry, type KeyEntry } from './key-entry.ts'
import {
  decodeDetachedMessage,
  decodeInlineMessage,
  DETACHED_VERSION,
  INLINE_VERSION,
  sealOverheadBytes,
  type MessageSuite,
} from './message.ts'
import { decodePackedHeader, PACKED_VERSION } from './packed-batch.ts'
import {
  decodeWrappedKey,
  kmsKeyIdText,
  USAGE_CALLER,
  WRAPPED_KEY_VERSION,
  WRAPPING_SUITES,
} from './wrapped-key.ts'

export type CiphertextForm =
  | 'inline'
  | 'packed'
  | 'detached'
  /** What a caller keeps once for a batch of detached messages. */
  | 'key entry'
  /** A ciphertext of the AWS protocol or a caller's data key: usage 02. */
  | 'AWS blob'
  /** A message key as a key entry holds it: usage 01. */
  | 'wrapped key'

export interface Inspection {
  readonly form: CiphertextForm
  readonly bytes: number
  /** Undefined of detached messages: their key entry has it. */
  readonly wrapping: Wrapping | undefined
  /** Of the message key, 32 hex digits; undefined where there is none. */
  readonly dataKeyId: string | undefined
  readonly cipher: 'XAES-256-GCM' | 'KC-XAES-256-GCM' | undefined
  /** Undefined where there are none, or where only the key store knows how long they are. */
  readonly messages: number | undefined
  readonly plaintextBytes: number | undefined
}

export interface Wrapping {
  /** A UUID. The id of a multi-Region key is `mrk-` and the same digits: ciphertexts do not tell them apart. */
  readonly kmsKeyId: string
  readonly materialVersion: number
  /** How the key store wrapped it. */
  readonly suite: keyof typeof WRAPPING_SUITES
  readonly usage: 'message key' | "caller's"
}

interface Recognizer {
  readonly takes: (bytes: Uint8Array) => boolean
  /** Throws MESSAGE_MALFORMED, DECRYPT_FAILED. */
  readonly inspect: (bytes: Uint8Array) => Inspection
}

const startsWith =
  (version: number) =>
  (bytes: Uint8Array): boolean =>
    bytes[0] === version

const RECOGNIZERS: readonly Recognizer[] = [
  // First, for it begins with bytes that may be any: its own length and the blob inside say what it is, and no other
  // form has those there but by a chance of 2^-40.
  { takes: isKeyEntry, inspect: inspectKeyEntry },
  { takes: startsWith(WRAPPED_KEY_VERSION), inspect: inspectWrappedKey },
  { takes: startsWith(INLINE_VERSION), inspect: inspectInline },
  { takes: startsWith(DETACHED_VERSION), inspect: inspectDetached },
  { takes: startsWith(PACKED_VERSION), inspect: inspectPacked },
]

/** Throws MESSAGE_MALFORMED, saying what is wrong. */
export function inspectCiphertext(bytes: Uint8Array): Inspection {
  const recognizer = RECOGNIZERS.find(({ takes }) => takes(bytes))
  if (recognizer === undefined) {
    throw new KeyfoldError('MESSAGE_MALFORMED', 'it begins like none of the known forms')
  }
  try {
    return recognizer.inspect(bytes)
  } catch (error) {
    // A wrapped key that is none is told nothing of, elsewhere: here somebody asks just that.
    if (!(error instanceof KeyfoldError && error.code === 'DECRYPT_FAILED')) throw error
    throw new KeyfoldError('MESSAGE_MALFORMED', 'its wrapped key is none of keyfold', error)
  }
}

/** The whole key entry of a ciphertext that stands alone or brings one along: a view. */
export function keyEntrySpan(
  bytes: Uint8Array,
  { form, wrapping }: Pick<Inspection, 'form' | 'wrapping'>,
): { readonly offset: number; readonly end: number } | undefined {
  if (wrapping === undefined) return undefined
  if (form === 'key entry') return { offset: 0, end: bytes.length }
  if (form !== 'inline' && form !== 'packed') return undefined
  const offset = 2
  const lengthAt = offset + COMMITMENT_BYTES
  const length = ((bytes[lengthAt] as number) << 8) | (bytes[lengthAt + 1] as number)
  return { offset, end: lengthAt + 2 + length }
}

/** Whether the bytes are a key entry and nothing else. */
export function isKeyEntry(bytes: Uint8Array): boolean {
  if (bytes[COMMITMENT_BYTES + 2] !== WRAPPED_KEY_VERSION) return false
  try {
    decodeWrappedKey(decodeKeyEntry(bytes).wrappedKey)
    return true
  } catch {
    return false
  }
}

function inspectKeyEntry(bytes: Uint8Array): Inspection {
  return { ...NOTHING, form: 'key entry', bytes: bytes.length, ...ofEntry(decodeKeyEntry(bytes)) }
}

function inspectWrappedKey(bytes: Uint8Array): Inspection {
  const wrapping = wrappingOf(bytes)
  const form = wrapping.usage === "caller's" ? 'AWS blob' : 'wrapped key'
  return { ...NOTHING, form, bytes: bytes.length, wrapping }
}

function inspectInline(bytes: Uint8Array): Inspection {
  const { suite, keyEntry, sealed } = decodeInlineMessage(bytes)
  return {
    form: 'inline',
    bytes: bytes.length,
    ...ofEntry(keyEntry),
    cipher: CIPHERS[suite],
    messages: 1,
    plaintextBytes: sealed.length - sealOverheadBytes(suite),
  }
}

function inspectDetached(bytes: Uint8Array): Inspection {
  const { suite, dataKeyId, sealed } = decodeDetachedMessage(bytes)
  return {
    form: 'detached',
    bytes: bytes.length,
    wrapping: undefined,
    dataKeyId: hex(dataKeyId),
    cipher: CIPHERS[suite],
    messages: 1,
    plaintextBytes: sealed.length - sealOverheadBytes(suite),
  }
}

function inspectPacked(bytes: Uint8Array): Inspection {
  const { suite, keyEntry, count, plaintextBytes } = decodePackedHeader(bytes)
  return {
    form: 'packed',
    bytes: bytes.length,
    ...ofEntry(decodeKeyEntry(keyEntry, 'MESSAGE_MALFORMED')),
    cipher: CIPHERS[suite],
    messages: count,
    plaintextBytes,
  }
}

const NOTHING = {
  dataKeyId: undefined,
  cipher: undefined,
  messages: undefined,
  plaintextBytes: undefined,
} as const

const CIPHERS = { 1: 'XAES-256-GCM', 2: 'KC-XAES-256-GCM' } as const satisfies Record<
  MessageSuite,
  Inspection['cipher']
>

function ofEntry({ commitment, wrappedKey }: KeyEntry): Pick<Inspection, 'wrapping' | 'dataKeyId'> {
  return {
    wrapping: wrappingOf(wrappedKey),
    dataKeyId: hex(commitment.subarray(0, DATA_KEY_ID_BYTES)),
  }
}

function wrappingOf(wrappedKey: Uint8Array): Wrapping {
  const { suite, usage, kmsKeyId, materialVersion } = decodeWrappedKey(wrappedKey)
  const names = Object.keys(WRAPPING_SUITES) as (keyof typeof WRAPPING_SUITES)[]
  return {
    kmsKeyId: kmsKeyIdText(kmsKeyId),
    materialVersion,
    suite: names.find((name) => WRAPPING_SUITES[name] === suite) as keyof typeof WRAPPING_SUITES,
    usage: usage === USAGE_CALLER ? "caller's" : 'message key',
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
