/** Rotation: new material for a key, by a period or on demand; what older versions wrapped still unwraps. */
import * as catalogKeys from '../catalog/keys.ts'
import { KeyfoldError } from '../errors.ts'
import { ROTATIONS_ON_DEMAND_MAX } from '../limits.ts'
import type { KmsKey } from './kms-key.ts'
import type { KmsParts } from './parts.ts'

export class Rotations {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  async rotateOnDemand(reference: string): Promise<KmsKey> {
    const { registry } = this.#parts
    const kmsKey = await registry.resolve(reference)
    const version = kmsKey.currentVersion + 1
    if (kmsKey.currentVersion > ROTATIONS_ON_DEMAND_MAX) {
      throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${ROTATIONS_ON_DEMAND_MAX} rotations a key`)
    }
    const store = this.#parts.keyStoreOf(kmsKey)
    const material = await store.createKeyMaterial(kmsKey.idBytes, version, kmsKey.keySpec)
    return registry.change(
      kmsKey.id,
      'RotateKeyOnDemand',
      async (transaction, changeNumber, now) => {
        // Another rotation came first, and this version number is taken: numbers are never used twice.
        if (now.currentVersion !== kmsKey.currentVersion) {
          throw new KeyfoldError('KMS_KEY_STATE_INVALID', 'another rotation is under way')
        }
        await catalogKeys.insertMaterial(transaction, {
          kmsKeyId: catalogKeys.materialOwner(kmsKey.id),
          ...catalogKeys.storedMaterial(version, material),
          createdAtMs: this.#parts.nowMs(),
          rotation: 'ON_DEMAND',
        })
        const change = { currentVersion: version }
        await catalogKeys.updateKey(transaction, kmsKey.id, change, changeNumber)
      },
    )
  }
}
