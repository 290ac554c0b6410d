/**
 * What a return value of a token means. Some say one thing everywhere; GENERAL_ERROR and OBJECT_HANDLE_INVALID do not,
 * and are settled by looking at the token: on SoftHSM 2.6 the first is also what a wrong tag gives, and the second what
 * a logout, a token that went away and a deleted key all give.
 */
import { KeyfoldError } from '../../errors.ts'
import { StoreFault, type Fault } from '../store-fault.ts'
import { CKR } from './cryptoki.ts'

/** A decryption that ran to its end and was refused, before anybody knows why. */
export class DecryptRefused extends Error {
  readonly returnValue: number

  constructor(returnValue: number) {
    super('decryption refused')
    this.returnValue = returnValue
  }
}

/** The token holds no object of this CKA_ID and label, as far as was looked. */
export class KeyMissing extends Error {}

/** A handle names another object than the one it was found for. */
export class HandleMoved extends Error {}

/** The token was opened anew while the call waited for a session. */
export class SessionsGone extends Error {}

/** Told by no other cause than the ciphertext, AAD or IV. */
const CIPHERTEXT: readonly number[] = [
  CKR.DATA_INVALID,
  CKR.DATA_LEN_RANGE,
  CKR.ENCRYPTED_DATA_INVALID,
  CKR.ENCRYPTED_DATA_LEN_RANGE,
  CKR.AEAD_DECRYPT_FAILED,
]

/** Of a decryption in a token that is well: the ciphertext again. Of any other, or in one that is not: trouble. */
const DOUBTFUL: readonly number[] = [CKR.GENERAL_ERROR, CKR.FUNCTION_FAILED, CKR.ARGUMENTS_BAD]

/** The same again would end the same. */
const UNSUPPORTED: readonly number[] = [
  CKR.ARGUMENTS_BAD,
  CKR.ATTRIBUTE_TYPE_INVALID,
  CKR.ATTRIBUTE_VALUE_INVALID,
  CKR.CURVE_NOT_SUPPORTED,
  CKR.FUNCTION_NOT_SUPPORTED,
  CKR.KEY_FUNCTION_NOT_PERMITTED,
  CKR.KEY_TYPE_INCONSISTENT,
  CKR.MECHANISM_INVALID,
  CKR.MECHANISM_PARAM_INVALID,
  CKR.TEMPLATE_INCONSISTENT,
]

const PIN: readonly number[] = [
  CKR.PIN_INCORRECT,
  CKR.PIN_INVALID,
  CKR.PIN_LEN_RANGE,
  CKR.PIN_EXPIRED,
  CKR.PIN_LOCKED,
  CKR.USER_PIN_NOT_INITIALIZED,
]

const SESSION: readonly number[] = [CKR.SESSION_HANDLE_INVALID, CKR.SESSION_CLOSED]

export const isCiphertextFault = (returnValue: number): boolean => CIPHERTEXT.includes(returnValue)
export const isDoubtful = (returnValue: number): boolean => DOUBTFUL.includes(returnValue)
export const isUnsupported = (returnValue: number): boolean => UNSUPPORTED.includes(returnValue)
export const isPinRefusal = (returnValue: number): boolean => PIN.includes(returnValue)
export const isSessionFault = (returnValue: number): boolean => SESSION.includes(returnValue)

export function nameOf(returnValue: number): string {
  const known = Object.entries(CKR).find(([, value]) => value === returnValue)?.[0]
  return known === undefined ? `CKR 0x${returnValue.toString(16)}` : `CKR_${known}`
}

/** Of a refused login. */
export function pinFaultOf(returnValue: number): Fault {
  if (returnValue === CKR.PIN_LOCKED) return 'user-locked'
  return returnValue === CKR.USER_PIN_NOT_INITIALIZED ? 'user-missing' : 'credential'
}

export function unreachable(detail: string, fault?: Fault): KeyfoldError {
  return fault === undefined
    ? new KeyfoldError('KEY_STORE_UNREACHABLE', detail)
    : new StoreFault(fault, 'KEY_STORE_UNREACHABLE', detail)
}
