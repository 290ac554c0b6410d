/**
 * Who sends a request: the bearer token in its Authorization header, or else the client certificate of its connection.
 * What was good is remembered, so that one more request costs a look-up and no hash; any change of tokens forgets it
 * all.
 */
import { X509Certificate } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import type { Principal } from '../kms/kms-key.ts'
import { PRINCIPAL_ARN_PATTERN } from '../kms/reference.ts'
import type { Tokens } from '../kms/tokens.ts'

const SCHEME = 'Bearer '
const REMEMBERED_MAX = 10_000

/** What a caller shows of themselves. */
export interface Credentials {
  /** The header, or ''. */
  readonly authorization: string
  /** PEM, of a CA that the server trusts; '' where there is none. */
  readonly certificate: string
}

export class Principals {
  readonly #tokens: Tokens
  readonly #account: string
  readonly #remembered = new Map<string, Principal>()

  constructor(tokens: Tokens, account: string) {
    this.#tokens = tokens
    this.#account = account
    tokens.onChange(() => this.#remembered.clear())
  }

  /** Throws UNAUTHENTICATED. */
  authenticate({ authorization, certificate }: Credentials): Principal {
    // No header begins as PEM does: one cannot be taken for the other.
    const shown = authorization === '' ? certificate : authorization
    const known = this.#remembered.get(shown)
    if (known !== undefined && !isExpired(known)) return known
    const principal =
      authorization === '' && certificate !== ''
        ? principalOf(new X509Certificate(certificate), this.#account)
        : this.#ofToken(authorization)
    if (principal === undefined) throw new KeyfoldError('UNAUTHENTICATED')
    if (this.#remembered.size >= REMEMBERED_MAX) this.#remembered.clear()
    this.#remembered.set(shown, principal)
    return principal
  }

  #ofToken(authorization: string): Principal | undefined {
    if (!authorization.startsWith(SCHEME)) return undefined
    return this.#tokens.authenticate(authorization.slice(SCHEME.length))
  }
}

/**
 * A certificate names its principal by a URI among its subject alternative names, `arn:aws:iam::ACCOUNT:user/NAME`, or
 * else by its common name, which stands for a user. What they may do, policies say: the certificate bounds nothing.
 */
function principalOf(certificate: X509Certificate, account: string): Principal | undefined {
  const uris = (certificate.subjectAltName ?? '')
    .split(', ')
    .filter((name) => name.startsWith('URI:'))
    .map((name) => name.slice('URI:'.length))
  const arn =
    uris.find((uri) => PRINCIPAL_ARN_PATTERN.test(uri)) ??
    `arn:aws:iam::${account}:user/${commonNameOf(certificate)}`
  if (!PRINCIPAL_ARN_PATTERN.test(arn)) return undefined
  return {
    arn,
    credential: 'certificate',
    tokenId: certificate.fingerprint256,
    actions: ['*'],
    keys: ['*'],
    expiresAtMs: Date.parse(certificate.validTo),
  }
}

/** '' where there is none. */
export function commonNameOf({ subject }: X509Certificate): string {
  return /^CN=(.+)$/m.exec(subject)?.[1] ?? ''
}

function isExpired({ expiresAtMs }: Principal): boolean {
  return expiresAtMs !== undefined && expiresAtMs <= Date.now()
}
