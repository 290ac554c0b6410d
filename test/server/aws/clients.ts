/** AWS's own client for KMS, as several principals in several regions, speaking to a service under test. */
import { KMSClient } from '@aws-sdk/client-kms'

import type { Service } from '../../service.ts'

export const ACCOUNT = '000000000000'
export const ROOT = `arn:aws:iam::${ACCOUNT}:root`
export const userArn = (name: string, account = ACCOUNT): string =>
  `arn:aws:iam::${account}:user/${name}`

/** With an access key of its own. */
export async function clientAs(
  service: Service,
  principalArn: string,
  region: string = service.engine.config.region,
): Promise<KMSClient> {
  const { record, secretAccessKey } = await service.engine.accessKeys.create({ principalArn })
  return new KMSClient({
    endpoint: service.url,
    region,
    credentials: { accessKeyId: record.accessKeyId, secretAccessKey },
    // A refusal is to be seen, not tried again.
    maxAttempts: 1,
  })
}

/** `Name: message` of the error that a call ends with. Fails where it is answered. */
export async function refusal(call: Promise<unknown>): Promise<string> {
  try {
    await call
  } catch (error) {
    const { name, message } = error as Error
    return `${name}: ${message}`
  }
  throw new Error('the call was answered')
}

/** The name alone. */
export async function refused(call: Promise<unknown>): Promise<string> {
  return (await refusal(call)).split(':')[0] as string
}
