/**
 * How many requests of callers who are nobody leave a record. Anyone who reaches the port can make one, and without a
 * bound anyone could fill the disk, and with it stop those who are somebody.
 *
 * What is turned away is counted, and told by the next record that is taken.
 */
import { AUDIT_STRANGERS_BURST, AUDIT_STRANGERS_PER_SECOND } from '../limits.ts'
import { SUCCESS, type AuditEvent } from './event.ts'

export class Strangers {
  #left = AUDIT_STRANGERS_BURST
  #filledAtMs = 0
  /** Since the last one that was taken. */
  #turnedAway = 0

  /** The event as it is recorded; undefined where it is not. Whatever is no refusal of a stranger is let through. */
  admit(event: AuditEvent): AuditEvent | undefined {
    // The server itself has no principal either.
    if (event.principalArn !== '' || event.outcome === SUCCESS || event.door === 'server') {
      return event
    }
    const refill =
      Math.max(0, event.timeMs - this.#filledAtMs) * (AUDIT_STRANGERS_PER_SECOND / 1000)
    this.#left = Math.min(AUDIT_STRANGERS_BURST, this.#left + refill)
    this.#filledAtMs = event.timeMs
    if (this.#left < 1) {
      this.#turnedAway++
      return undefined
    }
    this.#left -= 1
    const unrecordedBefore = this.#turnedAway
    if (unrecordedBefore === 0) return event
    this.#turnedAway = 0
    return { ...event, parameters: { ...event.parameters, unrecordedBefore } }
  }
}
