/** Making key material failed in a way that may have left it on the other side, where nothing refers to it. */
import { KeyfoldError } from '../errors.ts'
import type { NewKeyMaterial } from './key-store.ts'

export class MaterialInDoubt extends KeyfoldError {
  /** What the catalog would have kept of it: enough to destroy it by, should it be there. */
  readonly made: NewKeyMaterial

  constructor(cause: KeyfoldError, made: NewKeyMaterial) {
    super(cause.code, cause.detail, cause.cause)
    this.made = made
  }
}
