/**
 * From keyrings and options to the keys of one message, and a header: what is the same for streams, buffers and files.
 *
 * The encryption context has pairs that the header stores and pairs that it does not ("required"). The keyring is
 * given all of them; the header's tag covers the stored ones as a part of the header, and behind it the others.
 */
import { randomBytes } from 'node:crypto'

import type { EncryptionContext } from '../client/wire.ts'
import {
  checkCommitment,
  deriveCommitment,
  deriveContentKey,
} from '../crypto/encryption-sdk-keys.ts'
import { sealHeaderTag, verifyHeaderTag } from '../crypto/frame-cipher.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeUnsortedContext, encodeEncryptionContext } from '../format/encryption-context.ts'
import { encodeHeaderBody, type SealedHeader } from '../format/encryption-sdk.ts'
import {
  algorithmSuite,
  SUITE_COMMITTED,
  type AlgorithmSuite,
} from '../format/encryption-sdk-suites.ts'
import { HEADER_BYTES_MAX } from '../limits.ts'
import type { Keyring } from './keyring.ts'
import {
  checkPolicy,
  encryptedDataKeysMaxOf,
  type DecryptFileOptions,
  type EncryptFileOptions,
  type FileHeader,
} from './options.ts'

/** Of the Encryption SDK itself. */
const RESERVED_PREFIX = 'aws-crypto-'
const PUBLIC_KEY = 'aws-crypto-public-key'
const MESSAGE_ID_BYTES = 32

type Pair = readonly [string, string]

export interface NewMessage {
  /** Header with its tag, the first bytes of the message. */
  readonly header: Uint8Array
  readonly messageId: Uint8Array
  /** The caller's to wipe. */
  readonly contentKey: Buffer
}

/**
 * A fresh data key, message id and sealed header: one message can be written with it. Errors: CONTEXT_INVALID,
 * CONFIG_INVALID, LIMIT_EXCEEDED (the header's bounds), and the keyring's.
 */
export async function createMessage(
  keyring: Pick<Keyring, 'generateDataKey'>,
  frameLength: number,
  options: EncryptFileOptions,
): Promise<NewMessage> {
  const suite = algorithmSuite(SUITE_COMMITTED) as AlgorithmSuite
  const pairs = pairsOf(options.context)
  const required = requiredPairs(pairs, options.requiredContextKeys)
  const stored = pairs.filter((pair) => !required.includes(pair))
  const { dataKey, encryptedDataKeys } = await keyring.generateDataKey({
    keyBytes: suite.keyBytes,
    context: Object.fromEntries(pairs),
    contextBytes: encodeEncryptionContext(pairs),
  })
  try {
    const count = encryptedDataKeys.length
    const countMax = encryptedDataKeysMaxOf(options)
    if (count < 1 || count > countMax) {
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `${count} encrypted data keys, ${countMax} are allowed (encryptedDataKeysMax)`,
      )
    }
    const messageId = randomBytes(MESSAGE_ID_BYTES)
    const body = encodeHeaderBody({
      suite,
      messageId,
      context: encodeEncryptionContext(stored),
      encryptedDataKeys,
      frameLength,
      commitment: deriveCommitment(suite, dataKey, messageId),
    })
    if (body.length > HEADER_BYTES_MAX) {
      throw new KeyfoldError('LIMIT_EXCEEDED', `the header is longer than ${HEADER_BYTES_MAX}`)
    }
    const contentKey = deriveContentKey(suite, dataKey, messageId)
    const aad = Buffer.concat([body, encodeEncryptionContext(required)])
    return {
      header: Buffer.concat([body, sealHeaderTag(contentKey, aad)]),
      messageId,
      contentKey,
    }
  } finally {
    dataKey.fill(0)
  }
}

export interface OpenedMessage {
  readonly suite: AlgorithmSuite
  readonly messageId: Uint8Array
  /** 0: not framed. */
  readonly frameLength: number
  /** The caller's to wipe. */
  readonly contentKey: Buffer
  /** base64, where the suite signs. */
  readonly publicKey: string | undefined
  readonly fileHeader: FileHeader
}

/**
 * The keys of a message whose header has verified: policy, context, data key, commitment and tag, in this order.
 * Errors: COMMITMENT_REQUIRED, CONTEXT_INVALID, DECRYPT_FAILED, STREAM_MALFORMED, and the keyring's.
 */
export async function openMessage(
  keyring: Pick<Keyring, 'unwrapDataKey'>,
  { header, body, iv, tag }: SealedHeader,
  options: DecryptFileOptions,
): Promise<OpenedMessage> {
  const { suite, messageId, encryptedDataKeys, frameLength, commitment } = header
  checkPolicy(options, suite)
  const stored = decodeUnsortedContext(header.context)
  const given = pairsOf(options.context)
  requiredPairs(given, options.requiredContextKeys)
  const publicKey = publicKeyOf(stored, suite)
  const notStored = pairsNotStored(given, stored)
  const pairs = [...stored, ...notStored]
  const context: EncryptionContext = Object.fromEntries(pairs)
  const dataKey = await keyring.unwrapDataKey(encryptedDataKeys, {
    keyBytes: suite.keyBytes,
    context,
    contextBytes: encodeEncryptionContext(pairs),
  })
  if (dataKey === undefined) {
    throw new KeyfoldError('DECRYPT_FAILED', 'no encrypted data key is of a key of the keyring')
  }
  try {
    if (dataKey.length !== suite.keyBytes) {
      throw new KeyfoldError('DECRYPT_FAILED', 'the data key has another length')
    }
    checkCommitment(suite, dataKey, messageId, commitment)
    const contentKey = deriveContentKey(suite, dataKey, messageId)
    const aad = Buffer.concat([body, encodeEncryptionContext(notStored)])
    if (!verifyHeaderTag(contentKey, iv, aad, tag)) {
      contentKey.fill(0)
      throw new KeyfoldError('DECRYPT_FAILED', 'the header')
    }
    const fileHeader = { suiteId: suite.id, messageId, context, frameBytes: frameLength }
    return { suite, messageId, frameLength, contentKey, publicKey, fileHeader }
  } finally {
    dataKey.fill(0)
  }
}

function pairsOf(context: EncryptionContext = {}): readonly Pair[] {
  const pairs = Object.entries(context)
  for (const [key, value] of pairs) {
    if (typeof value !== 'string') throw new TypeError('an encryption context holds text only')
    if (key.startsWith(RESERVED_PREFIX)) {
      throw new KeyfoldError('CONTEXT_INVALID', `keys that begin with ${RESERVED_PREFIX}`)
    }
  }
  return pairs
}

/** Throws CONTEXT_INVALID where one is not given. */
function requiredPairs(
  pairs: readonly Pair[],
  requiredKeys: readonly string[] = [],
): readonly Pair[] {
  const required = pairs.filter(([key]) => requiredKeys.includes(key))
  if (required.length !== new Set(requiredKeys).size) {
    throw new KeyfoldError('CONTEXT_INVALID', 'a required key is not in the context')
  }
  return required
}

/** Those of the caller's pairs that the file does not store. Throws DECRYPT_FAILED where it stores another value. */
function pairsNotStored(given: readonly Pair[], stored: readonly Pair[]): readonly Pair[] {
  const values = new Map(stored)
  return given.filter(([key, value]) => {
    const found = values.get(key)
    if (found !== undefined && found !== value) {
      throw new KeyfoldError('DECRYPT_FAILED', 'the encryption context is another')
    }
    return found === undefined
  })
}

function publicKeyOf(stored: readonly Pair[], { signature }: AlgorithmSuite): string | undefined {
  const publicKey = stored.find(([key]) => key === PUBLIC_KEY)?.[1]
  if ((publicKey === undefined) !== (signature === undefined)) {
    throw new KeyfoldError('STREAM_MALFORMED', 'the public key is not of this algorithm suite')
  }
  return publicKey
}
