/**
 * The root key sealed by another key store: an HSM, a proxy, a remote KMS, a transit engine. The file `root.sealed`
 * opens where that store lets its key be used, at every start; `root-store.json` says which store, such as
 *
 *     {"kind": "aws-kms", "region": "eu-west-1", "keyId": "arn:aws:kms:eu-west-1:…:key/…"}
 *
 * keyId names a key that is there already; without it the store makes one.
 */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'

import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeSealedRootKey,
  encodeSealedRootKey,
  encodeSealedRootKeyAad,
  type SealedRootKey,
  type SealedRootKeyHeader,
} from '../format/sealed-root-key.ts'
import type { KeyMaterial, KeyStore } from './key-store.ts'
import { openKeyStore, parseKeyStoreSettings } from './open.ts'
import { StoreSettings } from './store-settings.ts'

const NAME = 'root'
const ID_BYTES = 16

/** Where a sealed root key may be, the likeliest first, and what says who sealed it. */
export interface SealedRootKeyFiles {
  readonly sealedFiles: readonly string[]
  readonly storeFile: string
}

/** What root.sealed says of it. Leaves the root key to the caller. Errors: CONFIG_INVALID, and the store's. */
export async function sealRootKey(
  storeFile: string,
  crypto: Crypto,
  rootKey: Uint8Array,
  rootVersion: number,
): Promise<string> {
  return withStore(storeFile, crypto, async (store, keyId) => {
    const id = randomBytes(ID_BYTES)
    const created = await store.createKeyMaterial(id, rootVersion, 'SYMMETRIC_DEFAULT', keyId)
    const suite = store.traits.wrappingSuite
    const header = { suite, rootVersion, id, reference: created.stored }
    const material = materialOf(header)
    const aad = encodeSealedRootKeyAad(header)
    const sealed = await store.wrapBytes(material, aad, rootKey)
    // Before anything relies on it: a store that only wraps would be found out at the next start.
    const opened = await store.unwrapBytes(material, aad, sealed)
    try {
      if (Buffer.compare(opened, rootKey) !== 0) {
        throw new KeyfoldError('INTERNAL', 'the key store did not give back what it sealed')
      }
    } finally {
      opened.fill(0)
    }
    const digits = Buffer.from(encodeSealedRootKey({ ...header, sealed })).toString('hex')
    return `${digits}\n`
  })
}

/**
 * The root key of this version, which the caller fills with zeros: of the first file that is of it. The store is asked
 * once. Errors: CONFIG_INVALID, ROOT_KEY_INVALID, and the store's.
 */
export async function unsealRootKey(
  { sealedFiles, storeFile }: SealedRootKeyFiles,
  crypto: Crypto,
  rootVersion: number,
): Promise<Uint8Array> {
  const [sealedFile, { sealed, ...header }] = sealedOf(sealedFiles, rootVersion)
  return withStore(storeFile, crypto, async (store) => {
    if (store.traits.wrappingSuite !== header.suite) {
      throw new KeyfoldError(
        'CONFIG_INVALID',
        `${storeFile}: another kind of store sealed ${sealedFile}; name that one`,
      )
    }
    try {
      return await store.unwrapBytes(materialOf(header), encodeSealedRootKeyAad(header), sealed)
    } catch (cause) {
      if (cause instanceof KeyfoldError && cause.code === 'DECRYPT_FAILED') {
        throw new KeyfoldError(
          'ROOT_KEY_INVALID',
          `the key store does not open ${sealedFile}`,
          cause,
        )
      }
      throw cause
    }
  })
}

function sealedOf(files: readonly string[], rootVersion: number): readonly [string, SealedRootKey] {
  const found = files
    .filter((file) => existsSync(file))
    .map((file) => {
      const digits = readFileSync(file, 'latin1').trim()
      return [file, decodeSealedRootKey(Buffer.from(digits, 'hex'))] as const
    })
  const [first] = found
  if (first === undefined) {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      `there is no sealed root key ${files[0] ?? ''}: keyfold init or keyfold root-key seal makes it`,
    )
  }
  const ofVersion = found.find(([, header]) => header.rootVersion === rootVersion)
  if (ofVersion !== undefined) return ofVersion
  const [file, header] = first
  throw new KeyfoldError(
    'ROOT_KEY_INVALID',
    `${file} is of version ${header.rootVersion} of the root key, and needed is ${rootVersion}`,
  )
}

function materialOf({ id, rootVersion, reference }: SealedRootKeyHeader): KeyMaterial {
  return {
    kmsKeyId: id,
    version: rootVersion,
    keySpec: 'SYMMETRIC_DEFAULT',
    stored: reference,
    publicKey: undefined,
  }
}

/** The store is needed for a moment at start, and no longer. */
async function withStore<T>(
  storeFile: string,
  crypto: Crypto,
  use: (store: KeyStore, keyId: string | undefined) => Promise<T>,
): Promise<T> {
  const members = StoreSettings.read(storeFile)
  const keyId = members.optionalText('keyId')
  const settings = parseKeyStoreSettings(members)
  members.end()
  const store = await openKeyStore(NAME, settings, crypto)
  try {
    return await use(store, keyId)
  } finally {
    await store.close()
  }
}
