/**
 * Policies attached to principals (IAM's identity-based policies): put, listed, deleted, and compiled for whoever
 * decides. All of them are in memory, for a decision waits for nothing.
 */
import type { Catalog } from '../catalog/catalog.ts'
import {
  deleteIdentityPolicy,
  readIdentityPolicies,
  upsertIdentityPolicy,
  type StoredIdentityPolicy,
} from '../catalog/identity-policies.ts'
import { KeyfoldError } from '../errors.ts'
import { IDENTITY_POLICIES_PER_PRINCIPAL_MAX } from '../limits.ts'
import type { NamedPolicy } from './policy/decide.ts'
import { compileIdentityPolicy } from './policy/document.ts'
import { PRINCIPAL_ARN_PATTERN } from './reference.ts'

export type IdentityPolicy = StoredIdentityPolicy

interface Attached extends NamedPolicy {
  readonly document: string
}

export class IdentityPolicies {
  readonly #catalog: Catalog
  /** By principal, each in the order of names. */
  readonly #policies = new Map<string, readonly Attached[]>()
  readonly #listeners: (() => void)[] = []
  /** Grows with every change. */
  #changes = 0

  static async load(catalog: Catalog): Promise<IdentityPolicies> {
    const policies = new IdentityPolicies(catalog)
    for (const stored of await readIdentityPolicies(catalog.db)) {
      policies.#replace(stored.principalArn, stored.name, attached(stored))
    }
    return policies
  }

  constructor(catalog: Catalog) {
    this.#catalog = catalog
  }

  /** Those that have a say when this principal asks. */
  of(principalArn: string): readonly NamedPolicy[] {
    return this.#policies.get(principalArn) ?? NONE
  }

  list(principalArn?: string): readonly IdentityPolicy[] {
    const principals = principalArn === undefined ? [...this.#policies.keys()] : [principalArn]
    return principals.sort().flatMap((principal) =>
      (this.#policies.get(principal) ?? []).map(({ name, document }) => ({
        principalArn: principal,
        name,
        document,
      })),
    )
  }

  /** Throws POLICY_NOT_FOUND. */
  get(principalArn: string, name: string): IdentityPolicy {
    const found = this.list(principalArn).find((policy) => policy.name === name)
    if (found === undefined) throw new KeyfoldError('POLICY_NOT_FOUND')
    return found
  }

  /** Throws POLICY_MALFORMED, LIMIT_EXCEEDED. */
  async put(policy: IdentityPolicy): Promise<void> {
    const { principalArn, name, document } = policy
    // Policies are attached to users and roles (IAM User Guide, "Identity-based policies").
    const isPrincipal =
      principalArn.length <= PRINCIPAL_CHARACTERS_MAX && PRINCIPAL_ARN_PATTERN.test(principalArn)
    if (!isPrincipal || principalArn.endsWith(':root')) {
      throw new KeyfoldError('REQUEST_MALFORMED', 'principal: the ARN of a user or role is needed')
    }
    if (!NAME_PATTERN.test(name)) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        'name: 1 to 128 letters, digits and + = , . @ - _',
      )
    }
    compileIdentityPolicy(document)
    await this.#catalog.change(async (transaction, changeNumber) => {
      const others = (await readIdentityPolicies(transaction)).filter(
        (other) => other.principalArn === principalArn && other.name !== name,
      )
      if (others.length >= IDENTITY_POLICIES_PER_PRINCIPAL_MAX) {
        throw new KeyfoldError(
          'LIMIT_EXCEEDED',
          `at most ${IDENTITY_POLICIES_PER_PRINCIPAL_MAX} policies a principal`,
        )
      }
      await upsertIdentityPolicy(transaction, { principalArn, name, document }, changeNumber)
    })
    this.#replace(principalArn, name, attached(policy))
    await this.#catalog.acknowledged()
  }

  /** Throws POLICY_NOT_FOUND. */
  async delete(principalArn: string, name: string): Promise<void> {
    this.get(principalArn, name)
    await this.#catalog.change((transaction, changeNumber) =>
      deleteIdentityPolicy(transaction, { principalArn, name }, changeNumber),
    )
    this.#replace(principalArn, name, undefined)
    await this.#catalog.acknowledged()
  }

  /** Takes in what other nodes have changed after `since` and what they removed, or all there is. */
  async follow(since: number | undefined, removed: readonly string[]): Promise<void> {
    let changes: number
    let stored: readonly StoredIdentityPolicy[]
    do {
      changes = this.#changes
      stored = await readIdentityPolicies(this.#catalog.db, since)
      // A change by this node came between, and what was read may be from before it.
    } while (changes !== this.#changes)
    if (since === undefined) {
      this.#policies.clear()
      this.#tellListeners()
    }
    for (const name of removed) {
      const [principalArn = '', policy = ''] = name.split(' ')
      this.#replace(principalArn, policy, undefined)
    }
    // After the removals: what was removed may have been put again.
    for (const policy of stored) {
      this.#replace(policy.principalArn, policy.name, attached(policy))
    }
  }

  /** Called in the tick in which a change becomes visible. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener)
  }

  #replace(principalArn: string, name: string, policy: Attached | undefined): void {
    const kept = (this.#policies.get(principalArn) ?? []).filter((other) => other.name !== name)
    const now = policy === undefined ? kept : [...kept, policy].sort(byName)
    if (now.length === 0) this.#policies.delete(principalArn)
    else this.#policies.set(principalArn, now)
    this.#tellListeners()
  }

  #tellListeners(): void {
    this.#changes++
    for (const listener of this.#listeners) listener()
  }
}

const NONE: readonly NamedPolicy[] = []

const PRINCIPAL_CHARACTERS_MAX = 2_048
const NAME_PATTERN = /^[\w+=,.@-]{1,128}$/

function attached({ name, document }: IdentityPolicy): Attached {
  try {
    return { name, document, policy: compileIdentityPolicy(document) }
  } catch (error) {
    if (!(error instanceof KeyfoldError)) throw error
    // Written by another version, or by another hand: its principal is denied until it is put anew.
    return { name, document, policy: undefined }
  }
}

function byName(one: Attached, other: Attached): number {
  return one.name < other.name ? -1 : 1
}
