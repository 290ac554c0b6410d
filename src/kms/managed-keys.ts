/**
 * Keys that integrations of the service keep for themselves, one each, `alias/aws/SERVICE` (AWS KMS Developer Guide,
 * "AWS managed keys"). Everyone in the account may see such a key and nobody may change it or use it directly: its
 * policy allows use only to a request that comes through the integration, and hands nothing else to identity policies
 * than reading. So there is no operation to forbid, at any door: the policy does, and cannot be put.
 *
 * What the service seals for itself, such as the secrets of access keys, is under the root key and under no KMS key.
 */
import { KeyfoldError } from '../errors.ts'
import type { KmsKey } from './kms-key.ts'
import type { NewKey } from './new-key.ts'
import { MANAGED_ALIAS_PREFIX, type Location } from './reference.ts'
import type { KeyRegistry } from './registry.ts'

/** What kms:ViaService says of a request that an integration makes for a caller. */
export function viaServiceOf(service: string, region: string): string {
  return `${service}.${region}.amazonaws.com`
}

const SERVICE_PATTERN = /^[a-z][a-z0-9-]{0,62}$/

/** Finds keys and makes them. */
interface Keys {
  readonly registry: Pick<KeyRegistry, 'resolve'>
  createKey(request: NewKey): Promise<KmsKey>
}

export class ManagedKeys {
  readonly #kms: Keys
  readonly #account: string
  /** Keys that are being found or made, by alias and region: many first uses make one key. */
  readonly #finding = new Map<string, Promise<KmsKey>>()

  constructor(kms: Keys, account: string) {
    this.#kms = kms
    this.#account = account
  }

  /**
   * The key of an integration in a region, made on first use. Its alias is inserted with it in one transaction, so that
   * neither a crash nor another node leaves a second one.
   */
  key(service: string, region: string): Promise<KmsKey> {
    if (!SERVICE_PATTERN.test(service)) throw new TypeError(`${service} is no name of a service`)
    const name = `${region}/${service}`
    const known = this.#finding.get(name)
    if (known !== undefined) return known
    const finding = this.#find(service, region)
    this.#finding.set(name, finding)
    const forget = (): boolean => this.#finding.delete(name)
    finding.then(forget, forget)
    return finding
  }

  async #find(service: string, region: string): Promise<KmsKey> {
    const alias = MANAGED_ALIAS_PREFIX + service
    try {
      return await this.#kms.registry.resolve(alias, region)
    } catch (error) {
      if (!isCode(error, 'KMS_KEY_NOT_FOUND')) throw error
    }
    try {
      return await this.#kms.createKey({
        alias,
        region,
        manager: 'AWS',
        description: `Default key that protects my ${service} data when no other key is defined`,
        policy: managedKeyPolicy(service, { region, account: this.#account }),
      })
    } catch (error) {
      // Another node was faster.
      if (!isCode(error, 'ALIAS_EXISTS')) throw error
      return this.#kms.registry.resolve(alias, region)
    }
  }
}

function isCode(error: unknown, code: KeyfoldError['code']): boolean {
  return error instanceof KeyfoldError && error.code === code
}

function managedKeyPolicy(service: string, { region, account }: Location): string {
  return JSON.stringify({
    Version: '2012-10-17',
    Id: `auto-${service}-1`,
    Statement: [
      {
        Sid: `Allow access through ${service} for all principals in the account that are authorized to use ${service}`,
        Effect: 'Allow',
        Principal: { AWS: '*' },
        Action: [
          'kms:Encrypt',
          'kms:Decrypt',
          'kms:ReEncrypt*',
          'kms:GenerateDataKey*',
          'kms:CreateGrant',
          'kms:DescribeKey',
        ],
        Resource: '*',
        Condition: {
          StringEquals: {
            'kms:CallerAccount': account,
            'kms:ViaService': viaServiceOf(service, region),
          },
        },
      },
      {
        Sid: 'Allow direct access to key metadata to the account',
        Effect: 'Allow',
        Principal: { AWS: `arn:aws:iam::${account}:root` },
        Action: ['kms:Describe*', 'kms:Get*', 'kms:List*', 'kms:RevokeGrant'],
        Resource: '*',
      },
    ],
  })
}
