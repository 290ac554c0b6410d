/**
 * A keyring: what wraps a data key for a file, and unwraps it again. A file may carry several wrappings; any one opens
 * it. Data keys are Buffers of their own that whoever holds them fills with zeros.
 */
import type { EncryptionContext } from '../client/wire.ts'
import { KeyfoldError } from '../errors.ts'
import type { EncryptedDataKey } from '../format/encryption-sdk.ts'

/** What a data key is for. */
export interface KeyringRequest {
  /** Of the data key: 32, or what an uncommitted suite of a file that is read needs. */
  readonly keyBytes: number
  /** The whole encryption context, also what the file does not store. */
  readonly context: EncryptionContext
  /** The same in canonical bytes. */
  readonly contextBytes: Uint8Array
}

export interface GeneratedDataKey {
  /** The caller's to wipe. */
  readonly dataKey: Buffer
  readonly encryptedDataKeys: readonly EncryptedDataKey[]
}

export interface Keyring {
  /** A fresh data key, wrapped under every key of the ring. */
  generateDataKey(request: KeyringRequest): Promise<GeneratedDataKey>
  /** A data key of another keyring, wrapped under every key of this one. It stays the caller's. */
  wrapDataKey(dataKey: Uint8Array, request: KeyringRequest): Promise<readonly EncryptedDataKey[]>
  /**
   * The data key of the first wrapping that a key of this ring opens; undefined where none is for this ring. Throws
   * the first failure where those that are for it do not open.
   */
  unwrapDataKey(
    encryptedDataKeys: readonly EncryptedDataKey[],
    request: KeyringRequest,
  ): Promise<Buffer | undefined>
}

/** Tries wrappings one after the other: those that `unwrap` answers undefined for are not this ring's. */
export async function unwrapFirst<T>(
  candidates: Iterable<T>,
  keyBytes: number,
  unwrap: (candidate: T) => Promise<Buffer | undefined>,
): Promise<Buffer | undefined> {
  let failure: unknown
  for (const candidate of candidates) {
    try {
      const dataKey = await unwrap(candidate)
      if (dataKey === undefined) continue
      if (dataKey.length === keyBytes) return dataKey
      dataKey.fill(0)
      failure ??= new KeyfoldError('DECRYPT_FAILED', 'the data key has another length')
    } catch (error) {
      // The key of one wrapping may be disabled, denied or gone, and another one's not.
      failure ??= error
    }
  }
  if (failure !== undefined) throw failure
  return undefined
}

/**
 * Several keyrings as one: the first generates the data key, the others wrap it too. Any of them opens the file.
 * Errors: those of the keyrings.
 */
export class MultiKeyring implements Keyring {
  readonly #generator: Keyring
  readonly #others: readonly Keyring[]

  constructor(generator: Keyring, ...others: readonly Keyring[]) {
    this.#generator = generator
    this.#others = others
  }

  async generateDataKey(request: KeyringRequest): Promise<GeneratedDataKey> {
    const { dataKey, encryptedDataKeys } = await this.#generator.generateDataKey(request)
    try {
      const wrapped = await wrapUnder(this.#others, dataKey, request)
      return { dataKey, encryptedDataKeys: [...encryptedDataKeys, ...wrapped] }
    } catch (error) {
      dataKey.fill(0)
      throw error
    }
  }

  wrapDataKey(dataKey: Uint8Array, request: KeyringRequest): Promise<readonly EncryptedDataKey[]> {
    return wrapUnder([this.#generator, ...this.#others], dataKey, request)
  }

  unwrapDataKey(
    encryptedDataKeys: readonly EncryptedDataKey[],
    request: KeyringRequest,
  ): Promise<Buffer | undefined> {
    return unwrapFirst([this.#generator, ...this.#others], request.keyBytes, (keyring) =>
      keyring.unwrapDataKey(encryptedDataKeys, request),
    )
  }
}

async function wrapUnder(
  keyrings: readonly Keyring[],
  dataKey: Uint8Array,
  request: KeyringRequest,
): Promise<readonly EncryptedDataKey[]> {
  // All settle before the caller may wipe the data key.
  const settled = await Promise.allSettled(
    keyrings.map((keyring) => keyring.wrapDataKey(dataKey, request)),
  )
  return settled.flatMap((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}
