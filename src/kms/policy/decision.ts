/** A decision: whether something is allowed, and what decided. Callers, the audit log and ExplainPolicy are told. */
/** What decided. */
export type DecidedBy =
  | { readonly kind: 'key-policy'; readonly statement: string }
  | { readonly kind: 'identity-policy'; readonly policy: string; readonly statement: string }
  | { readonly kind: 'grant'; readonly grantId: string | undefined }
  | { readonly kind: 'token' | 'root' | 'nothing' }

export interface Decision {
  readonly allowed: boolean
  readonly by: DecidedBy
  /** For people. */
  readonly reason: string
}
