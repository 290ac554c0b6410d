/**
 * Wrapping suite 2: AES-256-GCM in the token. The store part of a wrapped key is
 *
 *     12  IV
 *     …   ciphertext
 *     16  tag
 *
 * Tokens take IVs of any length (0 included, which makes them deterministic) and tags of any (0 included): 12 bytes
 * and 128 bits are enforced here. The AAD is always sent. Where the IV comes from:
 *
 *     host       we draw 12 random bytes, here or in the token
 *     token      12 zero bytes, over which the token writes its own in place
 *     appended   none: the token draws one and appends it to what it returns
 */
import { randomFillSync } from 'node:crypto'

import { KeyfoldError } from '../../errors.ts'
import type { IvMode } from '../../format/token-reference.ts'
import {
  PARAMETERS,
  returnValueOf,
  type Cryptoki,
  type Handle,
  type Mechanism,
} from './cryptoki.ts'
import { DecryptRefused } from './failures.ts'

const IV_BYTES = 12
const TAG_BYTES = 16
/** Of a store part. */
export const OVERHEAD_BYTES = IV_BYTES + TAG_BYTES
/** What keyfold wraps, and binds it to (format/wrapped-key.ts). */
const KEY_BYTES = 32
const AAD_BYTES = 55

export interface GcmCall {
  readonly cryptoki: Cryptoki
  readonly calls: 'sync' | 'async'
  readonly session: Handle
  readonly key: Handle
  readonly mechanism: number
  readonly aad: Buffer
  readonly input: Buffer
  readonly output: Buffer
}

/** Writes the store part to `output`, and returns its length. */
export async function encryptGcm(
  call: GcmCall,
  ivMode: IvMode,
  random: 'host' | 'token',
): Promise<number> {
  const { cryptoki, calls, session, key, input, output } = call
  const end = OVERHEAD_BYTES + input.length
  const iv = output.subarray(0, ivMode === 'appended' ? 0 : IV_BYTES)
  iv.fill(0)
  if (ivMode === 'host') {
    if (random === 'token') cryptoki.C_GenerateRandom(session, iv)
    else randomFillSync(iv)
  }
  cryptoki.C_EncryptInit(session, mechanismOf(call, iv), key)
  // An empty view of shared memory has an address, which SoftHSM insists on; an empty Buffer has none.
  const room = output.subarray(IV_BYTES)
  const sealed =
    calls === 'async'
      ? await cryptoki.C_EncryptAsync(session, input, room)
      : cryptoki.C_Encrypt(session, input, room)
  const written = IV_BYTES + sealed.length
  if (ivMode === 'appended') {
    if (written !== end + IV_BYTES) throw wrongIv('appends no IV of 12 bytes')
    output.copyWithin(0, end, end + IV_BYTES)
  } else if (written !== end) {
    throw wrongIv('does not return ciphertext and tag of 16 bytes')
  }
  // Zeros would be the same IV for every key that is wrapped.
  if (output.subarray(0, IV_BYTES).every((byte) => byte === 0)) throw wrongIv('writes no IV')
  return end
}

/** Of the store part in `input`. Writes the plaintext to `output`, and returns its length. */
export async function decryptGcm(call: GcmCall): Promise<number> {
  const { cryptoki, calls, session, key, input, output } = call
  cryptoki.C_DecryptInit(session, mechanismOf(call, input.subarray(0, IV_BYTES)), key)
  const sealed = input.subarray(IV_BYTES)
  try {
    const opened =
      calls === 'async'
        ? await cryptoki.C_DecryptAsync(session, sealed, output)
        : cryptoki.C_Decrypt(session, sealed, output)
    if (opened.length !== sealed.length - TAG_BYTES) throw wrongIv('opens to another length')
    return opened.length
  } catch (error) {
    const returnValue = returnValueOf(error)
    throw returnValue === undefined ? error : new DecryptRefused(returnValue)
  }
}

/** Throws unless a new key wraps and unwraps with these settings. */
export async function tryGcm(
  call: Omit<GcmCall, 'aad' | 'input' | 'output'>,
  ivMode: IvMode,
  random: 'host' | 'token',
): Promise<void> {
  const area = (bytes: number): Buffer => Buffer.from(new SharedArrayBuffer(bytes))
  const [aad, input] = [area(AAD_BYTES), area(KEY_BYTES)]
  const storePart = area(outputBytesMax(KEY_BYTES))
  const bytes = await encryptGcm({ ...call, aad, input, output: storePart }, ivMode, random)
  const output = area(bytes)
  const opened = await decryptGcm({ ...call, aad, input: storePart.subarray(0, bytes), output })
  if (!output.subarray(0, opened).equals(input)) throw wrongIv('does not open what it encrypted')
}

/** An appended IV is there a second time before it is moved to the front. */
export function outputBytesMax(inputBytes: number): number {
  return IV_BYTES + inputBytes + TAG_BYTES + IV_BYTES
}

function mechanismOf({ mechanism, aad }: GcmCall, iv: Buffer): Mechanism {
  return {
    mechanism,
    parameter: {
      type: PARAMETERS.aesGcm,
      iv,
      ivBits: 8 * iv.length,
      aad,
      tagBits: 8 * TAG_BYTES,
    },
  }
}

function wrongIv(what: string): KeyfoldError {
  return new KeyfoldError(
    'OPERATION_UNSUPPORTED',
    `the token ${what}: IV mode or mechanism of the key store are not the token's`,
  )
}
