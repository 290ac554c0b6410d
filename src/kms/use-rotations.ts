/**
 * Rotation by use, where the operator asked for it: a key whose current material was used for so many messages gets new
 * material at the scheduler's next look around. Uses are counted in memory and added up every few seconds, so that
 * material may be used for somewhat more.
 */
import { readOverused, type DuePage } from '../catalog/due.ts'
import type { KmsParts } from './parts.ts'
import type { Rotations } from './rotations.ts'
import type { DueWork } from './scheduler.ts'

export class UseRotations implements DueWork {
  readonly #parts: KmsParts
  readonly #rotations: Rotations
  readonly #messagesMax: number

  constructor(parts: KmsParts, rotations: Rotations, messagesMax: number) {
    this.#parts = parts
    this.#rotations = rotations
    this.#messagesMax = messagesMax
  }

  due({ afterId, limit }: DuePage): Promise<readonly string[]> {
    const page = { afterId, limit, messagesMax: this.#messagesMax }
    return readOverused(this.#parts.catalog.db, page)
  }

  async finish(id: string): Promise<boolean> {
    // Its material may be new since it was found: then the count is that of the new one.
    return this.#rotations.rotateWhere(id, async (transaction) => {
      const page = { id, afterId: '', limit: 1, messagesMax: this.#messagesMax }
      return (await readOverused(transaction, page)).length > 0
    })
  }
}
