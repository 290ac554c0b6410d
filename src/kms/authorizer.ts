/**
 * Authorisation on the hot path: asked once per batch and key, answered from memory and at once. A question
 * (principal, action, key) is prepared the first time; where nothing of the request matters, its decision is kept and
 * costs three look-ups from then on. Otherwise decisions are kept by exactly what the statements and grants that
 * concern it read of the request, and what reads the time is decided anew each time.
 *
 * What is kept hangs on the key's record, which every change of its policy, grants, tags, aliases or state replaces,
 * and on the principal as one credential gave it; a change of an identity policy forgets everything.
 */
import { LRUCache } from 'lru-cache'

import { KeyfoldError } from '../errors.ts'
import { DECISIONS_MAX } from '../limits.ts'
import type { IdentityPolicies } from './identity-policies.ts'
import type {
  Action,
  Grant,
  KeyAuthorizer,
  KmsKey,
  Principal,
  RequestAttributes,
} from './kms-key.ts'
import { callerOf, prepare, reachesEveryKey, type Prepared } from './policy/decide.ts'
import type { DecidedBy, Decision } from './policy/decision.ts'
import { compileKeyPolicy, type Policy } from './policy/document.ts'
import { aliasArn, type Location } from './reference.ts'

/** Compiled key policies, by their text: most keys share a few. */
const POLICIES_MAX = 512

/** The text of a policy that cannot be understood. */
const NOT_VALID = Symbol('not valid')

interface Asked {
  readonly prepared: Prepared
  /** Where nothing of the request matters. */
  readonly decision: Decision | undefined
  /** By what was read; empty where a decision does not repeat. */
  readonly decisions: Map<string, Decision>
}

type AskedOfKey = Map<Principal, Map<Action, Asked>>

export class Authorizer implements KeyAuthorizer {
  readonly #location: Location
  readonly #identityPolicies: Pick<IdentityPolicies, 'of' | 'onChange'>
  readonly #nowMs: () => number
  readonly #assertServed: (kmsKey: KmsKey) => void
  readonly #policies = new LRUCache<string, Policy | typeof NOT_VALID>({ max: POLICIES_MAX })
  /** By record, so that what concerns an old one is never met again, and goes when it goes. */
  #asked = new WeakMap<KmsKey, AskedOfKey>()
  #decisions = 0

  constructor(options: {
    readonly location: Location
    readonly identityPolicies: Pick<IdentityPolicies, 'of' | 'onChange'>
    /** Throws where a key may have been changed by others without this process knowing; absent: there are no others. */
    readonly assertServed?: (kmsKey: KmsKey) => void
    /** Milliseconds since 1970, for aws:CurrentTime. */
    readonly nowMs?: () => number
  }) {
    this.#location = options.location
    this.#identityPolicies = options.identityPolicies
    this.#nowMs = options.nowMs ?? Date.now
    this.#assertServed = options.assertServed ?? (() => undefined)
    options.identityPolicies.onChange(() => this.#forget())
  }

  // Keys.

  decide(
    principal: Principal,
    action: Action,
    kmsKey: KmsKey | undefined,
    attributes: RequestAttributes,
  ): Decision {
    if (kmsKey === undefined) return this.#decideService(principal, action, undefined, attributes)
    const asked =
      this.#asked.get(kmsKey)?.get(principal)?.get(action) ?? this.#ask(principal, action, kmsKey)
    if (asked.decision !== undefined) return asked.decision
    const { prepared, decisions } = asked
    if (!prepared.repeatable) return prepared.decide(attributes, this.#nowMs())
    const read = JSON.stringify(prepared.reads.map((reading) => reading.read(attributes)))
    const known = decisions.get(read)
    if (known !== undefined) return known
    const decision = prepared.decide(attributes, this.#nowMs())
    this.#count()
    decisions.set(read, decision)
    return decision
  }

  /** Throws ACCESS_DENIED, or CATALOG_UNAVAILABLE where what is decided by may be out of date. */
  authorize(
    principal: Principal,
    action: Action,
    kmsKey: KmsKey,
    attributes: RequestAttributes,
  ): void {
    this.#assertServed(kmsKey)
    refuseUnless(this.decide(principal, action, kmsKey, attributes))
  }

  /**
   * Only who may do this with every key learns that there is none of that name: to others an absent key looks like a
   * forbidden one.
   */
  absentKeyError(principal: Principal, action: Action): KeyfoldError {
    const seesAll = reachesEveryKey(
      { caller: callerOf(principal.arn), action, location: this.#location },
      { principal, identityPolicies: this.#identityPolicies.of(principal.arn) },
    )
    return new KeyfoldError(seesAll ? 'KMS_KEY_NOT_FOUND' : 'ACCESS_DENIED')
  }

  // What concerns no key.

  /** For operations that concern no single key: creating, listing, tokens, locking. Throws ACCESS_DENIED. */
  authorizeService(principal: Principal, action: Action, attributes: RequestAttributes): void {
    refuseUnless(this.#decideService(principal, action, undefined, attributes))
  }

  /**
   * The alias part of an operation on an alias, which is asked beside its keys (AWS KMS Developer Guide, "Controlling
   * access to aliases"): up to identity policies, for an alias has no policy. Throws ACCESS_DENIED.
   */
  authorizeAlias(
    principal: Principal,
    action: Action,
    alias: string,
    attributes: RequestAttributes,
  ): void {
    const arn = aliasArn(alias, this.#locationOf(attributes))
    refuseUnless(this.#decideService(principal, action, arn, attributes))
  }

  /**
   * A key policy after which the caller could not put another is refused, as AWS KMS does unless the check is
   * bypassed. Throws POLICY_MALFORMED.
   */
  assertNoLockout(
    principal: Principal,
    kmsKey: KmsKey,
    policy: string,
    attributes: RequestAttributes,
  ): void {
    compileKeyPolicy(policy)
    if (this.decide(principal, 'kms:PutKeyPolicy', { ...kmsKey, policy }, attributes).allowed)
      return
    throw new KeyfoldError(
      'POLICY_MALFORMED',
      'The new key policy will not allow you to update the key policy in the future.',
    )
  }

  // Inside.

  /** Where a request that concerns no key is served. */
  #locationOf({ region = this.#location.region }: RequestAttributes): Location {
    return { region, account: this.#location.account }
  }

  #decideService(
    principal: Principal,
    action: Action,
    alias: string | undefined,
    attributes: RequestAttributes,
  ): Decision {
    const question = {
      caller: callerOf(principal.arn),
      action,
      kmsKey: undefined,
      location: this.#locationOf(attributes),
    }
    const prepared = prepare(question, {
      principal,
      keyPolicy: undefined,
      identityPolicies: this.#identityPolicies.of(principal.arn),
      grants: [],
      aliasArn: alias,
    })
    return prepared.decide(attributes, this.#nowMs())
  }

  #ask(principal: Principal, action: Action, kmsKey: KmsKey): Asked {
    // A key is used in its own region, so that a decision about it reads no region of the request.
    const location = { region: kmsKey.region, account: this.#location.account }
    const question = { caller: callerOf(principal.arn), action, kmsKey, location }
    const prepared = prepare(question, {
      principal,
      keyPolicy: this.#policyOf(kmsKey),
      identityPolicies: this.#identityPolicies.of(principal.arn),
      grants: grantsByGrantee(kmsKey).get(principal.arn) ?? [],
    })
    const isSettled = prepared.repeatable && prepared.reads.length === 0
    const asked: Asked = {
      prepared,
      decision: isSettled ? prepared.decide({}, this.#nowMs()) : undefined,
      decisions: new Map(),
    }
    this.#count()
    const ofKey: AskedOfKey = this.#asked.get(kmsKey) ?? new Map()
    const ofPrincipal: Map<Action, Asked> = ofKey.get(principal) ?? new Map()
    this.#asked.set(kmsKey, ofKey)
    ofKey.set(principal, ofPrincipal)
    ofPrincipal.set(action, asked)
    return asked
  }

  #policyOf({ policy: text }: KmsKey): Policy | undefined {
    let policy = this.#policies.get(text)
    if (policy === undefined) {
      policy = compiledOrNot(text)
      this.#policies.set(text, policy)
    }
    return policy === NOT_VALID ? undefined : policy
  }

  /** Counts what is kept; beyond the bound all of it goes, which costs no more than being asked anew. */
  #count(): void {
    if (++this.#decisions > DECISIONS_MAX) this.#forget()
  }

  #forget(): void {
    this.#asked = new WeakMap()
    this.#decisions = 0
  }
}

/** Why access was denied: the cause of the error, which callers are not told. */
class Denial {
  readonly decision: Decision

  constructor(decision: Decision) {
    this.decision = decision
  }
}

/** What denied access, by a name for the audit log; undefined of other errors. */
export function deniedBy(error: unknown): string | undefined {
  for (let cause = error; cause instanceof KeyfoldError; cause = cause.cause) {
    if (cause.cause instanceof Denial) return nameOf(cause.cause.decision.by)
  }
  return undefined
}

function nameOf(by: DecidedBy): string {
  switch (by.kind) {
    case 'key-policy':
      return `key-policy/${by.statement}`
    case 'identity-policy':
      return `identity-policy/${by.policy}/${by.statement}`
    case 'grant':
      return `grant/${by.grantId ?? ''}`
    default:
      return by.kind
  }
}

function refuseUnless(decision: Decision): void {
  if (decision.allowed) return
  throw new KeyfoldError('ACCESS_DENIED', undefined, new Denial(decision))
}

function compiledOrNot(text: string): Policy | typeof NOT_VALID {
  try {
    return compileKeyPolicy(text)
  } catch (error) {
    if (error instanceof KeyfoldError) return NOT_VALID
    throw error
  }
}

/** A key may have 50,000 grants: they are gone through once a record, not once a question. */
const grantsOfKey = new WeakMap<readonly Grant[], ReadonlyMap<string, readonly Grant[]>>()

function grantsByGrantee({ grants }: KmsKey): ReadonlyMap<string, readonly Grant[]> {
  const known = grantsOfKey.get(grants)
  if (known !== undefined) return known
  const byGrantee = new Map<string, Grant[]>()
  for (const grant of grants) {
    const ofGrantee = byGrantee.get(grant.granteePrincipal)
    if (ofGrantee === undefined) byGrantee.set(grant.granteePrincipal, [grant])
    else ofGrantee.push(grant)
  }
  grantsOfKey.set(grants, byGrantee)
  return byGrantee
}
