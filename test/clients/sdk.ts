/** The AWS SDK for JavaScript, on a keyfold in this process. */
import { KMS, type KMSClientConfig } from '@aws-sdk/client-kms'

import type { Service } from '../service.ts'

/** A KMS client of a principal: of the account's root where none is named. */
export async function kmsOf(
  service: Service,
  principal = rootOf(service),
  config: KMSClientConfig = {},
): Promise<KMS> {
  const { record, secretAccessKey } = await service.engine.accessKeys.create({
    principalArn: principal,
  })
  return clientOf(service, { accessKeyId: record.accessKeyId, secretAccessKey }, config)
}

export function clientOf(
  service: Service,
  credentials: {
    readonly accessKeyId: string
    readonly secretAccessKey: string
    readonly sessionToken?: string
  },
  config: KMSClientConfig = {},
): KMS {
  return new KMS({
    endpoint: service.url,
    region: service.engine.config.region,
    credentials,
    // What is refused once is what a test asks about.
    maxAttempts: 1,
    ...config,
  })
}

export function rootOf({ engine }: Service): string {
  return `arn:aws:iam::${engine.config.account}:root`
}

/** The name of the error and its text; '' and what came where there was none. */
export async function refusal(asked: Promise<unknown>): Promise<readonly [string, string]> {
  try {
    return ['', JSON.stringify(await asked)]
  } catch (error) {
    const { name, message } = error as Error
    return [name, message]
  }
}

export async function refusalName(asked: Promise<unknown>): Promise<string> {
  const [name, answer] = await refusal(asked)
  return name === '' ? `an answer: ${answer}` : name
}
