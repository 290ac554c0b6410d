/** A key store that cannot be used, and why, as far as that is known: for whoever has to mend it. */
import { KeyfoldError, type ErrorCode } from '../errors.ts'

export type Fault =
  // Of a proxy: it took the connection and was late; TLS did not come about; what it answered, or refused.
  | 'timed-out'
  | 'tls'
  | 'credential'
  | 'access-denied'
  | 'configuration'
  | 'response'
  // Of a token: it is not there; its user is locked out, or has no PIN.
  | 'token-missing'
  | 'user-locked'
  | 'user-missing'

/** What callers are told is its code. */
export class StoreFault extends KeyfoldError {
  readonly fault: Fault

  constructor(fault: Fault, code: ErrorCode, detail?: string, cause?: unknown) {
    super(code, detail, cause)
    this.fault = fault
  }
}

export function faultOf(error: unknown): Fault | undefined {
  return error instanceof StoreFault ? error.fault : undefined
}
