/**
 * The root key as another key store sealed it: the file `root.sealed`, hex digits of
 *
 *     1   version         0xF5
 *     1   suite           how the store wrapped it: WRAPPING_SUITES
 *     4   root version
 *     16  id              random; stands for a KMS key id towards the store
 *     2   length
 *     …   reference       what the store keeps of its key (KeyMaterial.stored)
 *     …   sealed          the store part: 32 bytes wrapped
 *
 * AAD = "keyfold/root/v1/sealed" ‖ the bytes before `sealed`.
 */
import { Reader, Writer } from './bytes.ts'
import { WRAPPING_SUITES, type WrappingSuite } from './wrapped-key.ts'

const VERSION = 0xf5
const ID_BYTES = 16
const HEADER_BYTES = 1 + 1 + 4 + ID_BYTES + 2
const LABEL = Buffer.from('keyfold/root/v1/sealed')

export interface SealedRootKeyHeader {
  readonly suite: WrappingSuite
  readonly rootVersion: number
  /** 16 bytes. */
  readonly id: Uint8Array
  readonly reference: Uint8Array
}

export interface SealedRootKey extends SealedRootKeyHeader {
  readonly sealed: Uint8Array
}

export function encodeSealedRootKey(rootKey: SealedRootKey): Uint8Array {
  return Buffer.concat([headerOf(rootKey), rootKey.sealed])
}

/** Throws ROOT_KEY_INVALID. */
export function decodeSealedRootKey(bytes: Uint8Array): SealedRootKey {
  const reader = new Reader(bytes, 'ROOT_KEY_INVALID')
  if (reader.u8() !== VERSION) throw reader.malformed('unknown version of a sealed root key')
  const suiteByte = reader.u8()
  const suite = Object.values(WRAPPING_SUITES).find((known) => known === suiteByte)
  if (suite === undefined) throw reader.malformed('unknown suite of a sealed root key')
  const rootVersion = reader.u32()
  const id = reader.take(ID_BYTES)
  const reference = reader.take(reader.u16())
  return { suite, rootVersion, id, reference, sealed: reader.rest() }
}

export function encodeSealedRootKeyAad(header: SealedRootKeyHeader): Uint8Array {
  return Buffer.concat([LABEL, headerOf(header)])
}

function headerOf({ suite, rootVersion, id, reference }: SealedRootKeyHeader): Uint8Array {
  return new Writer(new Uint8Array(HEADER_BYTES + reference.length))
    .u8(VERSION)
    .u8(suite)
    .u32(rootVersion)
    .put(id)
    .u16(reference.length)
    .put(reference).bytes
}
