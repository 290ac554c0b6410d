/** AWS's own client, speaking to a service under test. */
import {
  CreateKeyCommand,
  GetPublicKeyCommand,
  KMSClient,
  type CreateKeyCommandInput,
  type KeySpec,
  type KeyUsageType,
} from '@aws-sdk/client-kms'

import type { Service } from '../../service.ts'

/** As the account's root, or as this user with no more than their policies allow. */
export async function clientOf(service: Service, user?: string): Promise<KMSClient> {
  const { accessKeys, config } = service.engine
  const { record, secretAccessKey } = await accessKeys.create({
    principalArn: `arn:aws:iam::${config.account}:${user === undefined ? 'root' : `user/${user}`}`,
  })
  return new KMSClient({
    endpoint: service.url,
    region: config.region,
    credentials: { accessKeyId: record.accessKeyId, secretAccessKey },
    // A refusal is to be seen, not tried again.
    maxAttempts: 1,
  })
}

/** A refusal as its caller sees it. */
export interface Refusal {
  readonly name: string
  readonly message: string
  readonly status: number | undefined
}

/** What a call was refused with; fails where it was answered. */
export async function refusalOf(ask: () => Promise<unknown>): Promise<Refusal> {
  try {
    await ask()
  } catch (error) {
    const { name, message, $metadata } = error as Error & {
      readonly $metadata?: { readonly httpStatusCode?: number }
    }
    return { name, message, status: $metadata?.httpStatusCode }
  }
  throw new Error('the call was answered')
}

/** Keys that the tests of one file share, by their ARNs. */
export class SharedKeys {
  readonly #client: KMSClient
  readonly #shared = new Map<string, Promise<string>>()

  constructor(client: KMSClient) {
    this.#client = client
  }

  of(KeySpec: KeySpec, KeyUsage?: KeyUsageType): Promise<string> {
    const name = `${KeySpec} ${KeyUsage ?? ''}`
    const shared = this.#shared.get(name) ?? this.create({ KeySpec, KeyUsage })
    this.#shared.set(name, shared)
    return shared
  }

  /** One that nobody shares. */
  async create(input: CreateKeyCommandInput): Promise<string> {
    const { KeyMetadata } = await this.#client.send(new CreateKeyCommand(input))
    return KeyMetadata?.Arn as string
  }

  async publicKeyOf(KeyId: string): Promise<Uint8Array> {
    const { PublicKey } = await this.#client.send(new GetPublicKeyCommand({ KeyId }))
    return PublicKey as Uint8Array
  }
}
