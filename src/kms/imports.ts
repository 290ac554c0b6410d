/**
 * Imported key material (AWS KMS, "Importing key material"): a KMS key of origin EXTERNAL gets its material from its
 * owner, who wraps it under a key pair that is made for one import and thrown away with it.
 *
 * A KMS key takes one key material in its life. It may expire or be deleted, and then it is the same material, known by
 * its fingerprint, that makes the key usable again: with another one nothing that it encrypted would ever open.
 */
import { createHash, randomBytes } from 'node:crypto'

import type { CatalogTransaction } from '../catalog/catalog.ts'
import { hashOfStored } from '../catalog/destroyed-log.ts'
import { awaitImport, destroyMaterials } from '../catalog/destruction.ts'
import * as catalogImports from '../catalog/imports.ts'
import { materialOwner, readFamily, updateKeys } from '../catalog/keys.ts'
import { unwrapKeyMaterial, type WrappingAlgorithm } from '../crypto/import-wrapping.ts'
import { isAsymmetric, isRsa, openPrivateKey } from '../crypto/key-pair.ts'
import type { RsaKeySpec } from '../crypto/key-spec.ts'
import { decryptOaep } from '../crypto/rsa-oaep.ts'
import { KeyfoldError } from '../errors.ts'
import type { SecretPlace } from '../format/sealed-secret.ts'
import { generateKeyPair } from '../key-stores/key-pair-work.ts'
import type { StoreTurn } from '../key-stores/key-store.ts'
import type { SecretSealer } from '../key-stores/secret-sealer.ts'
import {
  DAY_MS,
  IMPORT_PARAMETERS_AGE_MS,
  IMPORT_PARAMETERS_KEPT_MS,
  IMPORT_PARAMETERS_PER_KEY_MAX,
  IMPORTED_VALIDITY_DAYS_MAX,
} from '../limits.ts'
import { assertOperable } from './key-states.ts'
import type { KmsKey } from './kms-key.ts'
import type { KmsParts } from './parts.ts'
import { materialId } from './reference.ts'

/** The token says nothing by itself: it is looked up by its hash. */
const TOKEN_BYTES = 48
const WRAPPING_KEY_SPECS = ['RSA_2048', 'RSA_3072', 'RSA_4096'] as const

export interface ImportWrapping {
  readonly algorithm: WrappingAlgorithm
  readonly keySpec: RsaKeySpec
}

export interface ImportParameters {
  readonly importToken: Uint8Array
  /** SPKI DER of the wrapping key. */
  readonly publicKey: Uint8Array
  readonly validToMs: number
}

export interface ImportRequest {
  readonly importToken: Uint8Array
  readonly wrapped: Uint8Array
  /** undefined: it does not expire. */
  readonly validToMs: number | undefined
  // Of symmetric keys:
  readonly importType?: 'NEW_KEY_MATERIAL' | 'EXISTING_KEY_MATERIAL' | undefined
  /** The one from the last import where absent. */
  readonly description?: string | undefined
  readonly keyMaterialId?: string | undefined
}

export class Imports {
  readonly #parts: KmsParts
  readonly #sealer: SecretSealer

  constructor(parts: KmsParts, sealer: SecretSealer) {
    this.#parts = parts
    this.#sealer = sealer
  }

  /** Errors: OPERATION_UNSUPPORTED, LIMIT_EXCEEDED, LOCKED, and what states forbid. */
  async createParameters(
    reference: string,
    wrapping: ImportWrapping,
    turn: StoreTurn,
  ): Promise<ImportParameters> {
    const { catalog, registry, nowMs } = this.#parts
    const kmsKey = await registry.resolve(reference)
    assertOperable('GetParametersForImport', kmsKey)
    checkWrapping(kmsKey, wrapping)
    // Before the work is done; that a few at the same time pass together does no harm.
    const count = await catalogImports.countImportParameters(catalog.db, kmsKey.id)
    if (count >= IMPORT_PARAMETERS_PER_KEY_MAX) {
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `at most ${IMPORT_PARAMETERS_PER_KEY_MAX} import tokens of a key within two days`,
      )
    }
    const importToken = randomBytes(TOKEN_BYTES)
    const tokenHash = hashOf(importToken)
    const place = importParametersPlace({
      tokenHash,
      kmsKeyId: kmsKey.id,
      wrappingAlgorithm: wrapping.algorithm,
    })
    const { privateKey, publicKey } = await generateKeyPair(wrapping.keySpec, turn)
    let sealedPrivateKey: Uint8Array
    try {
      sealedPrivateKey = this.#sealer.seal(place, privateKey)
    } finally {
      privateKey.fill(0)
    }
    const expiresAtMs = nowMs() + IMPORT_PARAMETERS_AGE_MS
    await registry.change(kmsKey.id, 'GetParametersForImport', async (transaction) => {
      await catalogImports.deleteOldImportParameters(
        transaction,
        nowMs() - IMPORT_PARAMETERS_KEPT_MS,
      )
      await catalogImports.insertImportParameters(transaction, {
        tokenHash,
        kmsKeyId: kmsKey.id,
        wrappingAlgorithm: wrapping.algorithm,
        sealedPrivateKey,
        expiresAtMs,
      })
    })
    return { importToken, publicKey, validToMs: expiresAtMs }
  }

  /**
   * The wrapping key is used up by an import that succeeds. Errors: IMPORT_TOKEN_INVALID, IMPORT_TOKEN_EXPIRED,
   * DECRYPT_FAILED, KEY_MATERIAL_INCORRECT, REQUEST_MALFORMED, OPERATION_UNSUPPORTED, and what states forbid.
   */
  async importMaterial(reference: string, request: ImportRequest): Promise<KmsKey> {
    const { catalog, registry, keyStores, nowMs } = this.#parts
    const kmsKey = await registry.resolve(reference)
    assertOperable('ImportKeyMaterial', kmsKey)
    checkRequest(kmsKey, request, nowMs())
    const tokenHash = hashOf(request.importToken)
    const parameters = await catalogImports.readImportParameters(catalog.db, tokenHash)
    if (parameters?.kmsKeyId !== kmsKey.id) throw new KeyfoldError('IMPORT_TOKEN_INVALID')
    if (parameters.expiresAtMs <= nowMs()) throw new KeyfoldError('IMPORT_TOKEN_EXPIRED')
    const { currentVersion: version, idBytes, keySpec } = kmsKey
    const plaintext = await this.#unwrap(parameters, request.wrapped)
    const store = keyStores.storeOf(kmsKey)
    const material = await store.importKeyMaterial(idBytes, version, keySpec, plaintext)
    const imported = await registry.change(
      kmsKey.id,
      'ImportKeyMaterial',
      async (transaction, changeNumber, now) => {
        const kmsKeyId = materialOwner(now.id)
        const before = await catalogImports.readImported(transaction, kmsKeyId, version)
        assertExpected(now, request, before?.fingerprint ?? undefined, material.fingerprint)
        if (!(await catalogImports.deleteImportParameters(transaction, tokenHash))) {
          throw new KeyfoldError('IMPORT_TOKEN_INVALID')
        }
        await catalogImports.putImportedMaterial(
          transaction,
          {
            kmsKeyId,
            version,
            stored: material.stored,
            publicKey: material.publicKey ?? null,
            fingerprint: material.fingerprint,
            validToMs: request.validToMs ?? null,
            description: request.description ?? before?.description ?? null,
          },
          nowMs(),
        )
        await enableWaiting(transaction, kmsKeyId, changeNumber)
      },
    )
    registry.forgetRelatives(imported)
    return imported
  }

  /** Does nothing where there is none. Throws KMS_KEY_NOT_FOUND where the material has another id. */
  async deleteMaterial(reference: string, keyMaterialId?: string): Promise<KmsKey> {
    const { catalog, registry, nowMs } = this.#parts
    const { id } = await registry.resolve(reference)
    const kmsKey = await registry.change(
      id,
      'DeleteImportedKeyMaterial',
      async (transaction, changeNumber, now) => {
        const { currentVersion: version } = now
        if (keyMaterialId !== undefined && keyMaterialId !== materialId(now, version)) {
          throw new KeyfoldError('KMS_KEY_NOT_FOUND', `${now.arn} has no such key material.`)
        }
        const material = now.materials.get(version)
        if (material === undefined) return
        const kmsKeyId = materialOwner(id)
        const hash = hashOfStored(material.stored)
        await catalog.destroyed.recordMaterials([{ kmsKeyId, version, hash }], transaction)
        await destroyMaterials(transaction, kmsKeyId, nowMs(), [version])
        await awaitImport(transaction, kmsKeyId, changeNumber)
      },
    )
    registry.forgetRelatives(kmsKey)
    return kmsKey
  }

  /** Throws DECRYPT_FAILED. The plaintext is the caller's to hand on. */
  async #unwrap(
    parameters: catalogImports.StoredImportParameters,
    wrapped: Uint8Array,
  ): Promise<Uint8Array> {
    const { sealedPrivateKey, wrappingAlgorithm } = parameters
    const der = this.#sealer.open(importParametersPlace(parameters), sealedPrivateKey)
    try {
      for (const spec of WRAPPING_KEY_SPECS) {
        const key = openPrivateKey(spec, der)
        if (key === undefined) continue
        const algorithm = wrappingAlgorithm as WrappingAlgorithm
        return await unwrapKeyMaterial(algorithm, spec, wrapped, (oaep, ciphertext) =>
          decryptOaep(spec, key, oaep, ciphertext),
        )
      }
    } finally {
      der.fill(0)
    }
    throw new KeyfoldError('INTERNAL', 'a wrapping key of no known spec')
  }
}

/** AWS KMS, "Select a wrapping algorithm". */
function checkWrapping({ keySpec, arn }: KmsKey, { algorithm, keySpec: wrapping }: ImportWrapping) {
  const isDirect = algorithm.startsWith('RSAES_OAEP')
  // PKCS#8 of a P-521 key has 241 bytes, and RSA_2048 takes 214.
  const isTooLong = isRsa(keySpec) || (keySpec === 'ECC_NIST_P521' && wrapping === 'RSA_2048')
  if (isDirect ? !isTooLong : isAsymmetric(keySpec)) return
  throw new KeyfoldError(
    'OPERATION_UNSUPPORTED',
    `${arn} key spec is ${keySpec}, whose key material is not wrapped by ${algorithm} with ${wrapping}.`,
  )
}

function checkRequest({ keySpec }: KmsKey, request: ImportRequest, nowMs: number): void {
  const { validToMs, importType, description, keyMaterialId } = request
  if (validToMs !== undefined) {
    if (validToMs <= nowMs || validToMs > nowMs + IMPORTED_VALIDITY_DAYS_MAX * DAY_MS) {
      throw malformed(`ValidTo: a moment within the next ${IMPORTED_VALIDITY_DAYS_MAX} days`)
    }
  }
  const named = [importType, description, keyMaterialId].some((given) => given !== undefined)
  if (named && keySpec !== 'SYMMETRIC_DEFAULT') {
    throw malformed(
      'ImportType, KeyMaterialDescription and KeyMaterialId: for symmetric encryption keys only',
    )
  }
  if (keyMaterialId !== undefined && importType === 'NEW_KEY_MATERIAL') {
    throw malformed('KeyMaterialId: new key material has none yet')
  }
}

/** Throws KEY_MATERIAL_INCORRECT, OPERATION_UNSUPPORTED. `before`: of what was imported first, if anything was. */
function assertExpected(
  kmsKey: KmsKey,
  { importType, keyMaterialId }: ImportRequest,
  before: Uint8Array | undefined,
  fingerprint: Uint8Array,
): void {
  if (before === undefined) {
    if (importType !== 'EXISTING_KEY_MATERIAL' && keyMaterialId === undefined) return
    throw incorrect('nothing was imported into this KMS key before')
  }
  const isSame = Buffer.compare(before, fingerprint) === 0
  if (importType === 'NEW_KEY_MATERIAL') {
    if (isSame) throw incorrect('this is the key material that the KMS key has')
    throw new KeyfoldError('OPERATION_UNSUPPORTED', 'a KMS key takes one key material here')
  }
  if (!isSame) throw incorrect('this is not what was imported into this KMS key before')
  if (keyMaterialId !== undefined && keyMaterialId !== materialId(kmsKey, kmsKey.currentVersion)) {
    throw incorrect('this key material has another id')
  }
}

/** The key, and whoever shares its material; one that was disabled stays so. */
async function enableWaiting(
  transaction: CatalogTransaction,
  kmsKeyId: string,
  changeNumber: number,
): Promise<void> {
  const family = await readFamily(transaction, kmsKeyId)
  const waiting = family.filter(({ state }) => state === 'PendingImport').map(({ id }) => id)
  await updateKeys(transaction, waiting, { state: 'Enabled' }, changeNumber)
}

/** A wrapping key that was moved to another token, KMS key or algorithm does not open. */
export function importParametersPlace({
  tokenHash,
  kmsKeyId,
  wrappingAlgorithm,
}: Pick<
  catalogImports.StoredImportParameters,
  'tokenHash' | 'kmsKeyId' | 'wrappingAlgorithm'
>): SecretPlace {
  return {
    purpose: 'import-parameters',
    id: Buffer.from(tokenHash).toString('hex'),
    owner: `${kmsKeyId}/${wrappingAlgorithm}`,
  }
}

function hashOf(importToken: Uint8Array): Uint8Array {
  return createHash('sha256').update(importToken).digest()
}

function incorrect(detail: string): KeyfoldError {
  return new KeyfoldError('KEY_MATERIAL_INCORRECT', detail)
}

function malformed(detail: string): KeyfoldError {
  return new KeyfoldError('REQUEST_MALFORMED', detail)
}
