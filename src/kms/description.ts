/** Descriptions of KMS keys, which say nothing to the service. */
import { KeyfoldError } from '../errors.ts'
import { DESCRIPTION_CHARACTERS_MAX } from '../limits.ts'

export function checkDescription(description: string): void {
  if (description.length > DESCRIPTION_CHARACTERS_MAX) {
    throw new KeyfoldError(
      'LIMIT_EXCEEDED',
      `description: at most ${DESCRIPTION_CHARACTERS_MAX} characters`,
    )
  }
}
