/** What the doors have in common whose requests are signed as a whole: who asks is known when the whole body is there. */
import type { KeyfoldError } from '../errors.ts'
import type { RequestOrigin } from '../kms/kms-key.ts'
import type { Answer } from './answer.ts'
import type { RequestTarget } from './aws/canonical-request.ts'
import type { SignatureClaim } from './aws/sigv4.ts'

/** What a request's headers say, read before its body is there: they do not outlive the handler. */
export interface SignedHead {
  /** Who claims to have signed, or why that cannot be told. */
  readonly claim: SignatureClaim | KeyfoldError
  readonly origin: RequestOrigin
  /** For the record; undefined where there is no audit log. */
  readonly address: string | undefined
}

export interface SignedAnswer {
  readonly status: number
  readonly requestId: string
  readonly body: Answer
}

export interface SignedDoor<Head extends SignedHead> {
  readonly requestBytesMax: number
  readonly contentType: string
  /** Under which header an answer tells its request id. */
  readonly requestIdHeader: string
  /** `admit` gives the client's certificate, or ''; it throws where nobody is served now, whoever asks. */
  read(
    request: RequestTarget,
    from: Pick<SignedHead, 'origin' | 'address'>,
    admit: () => string,
  ): Head
  /** Never rejects. What was done is recorded before anyone is told. */
  answer(head: Head, body: Uint8Array): Promise<SignedAnswer>
  refuse(error: unknown, requestId?: string): SignedAnswer
}
