/**
 * The SDK of AWS KMS and a client of it, as a key store's settings say: where, under whose name, and how long a call may
 * take. The SDK is an optional dependency, loaded when the first store is opened.
 */
import type * as sdkTypes from '@aws-sdk/client-kms'
import type { KMSClient } from '@aws-sdk/client-kms'

import { KeyfoldError } from '../errors.ts'
import {
  KEY_STORE_CALL_MS_DEFAULT,
  KEY_STORE_CALL_MS_MAX,
  KEY_STORE_CONNECTIONS_MAX,
  KEY_STORE_CREATE_MS,
} from '../limits.ts'
import { checkEndpoint, readAuthorities } from './remote.ts'
import { readSecretLine } from './secret-files.ts'
import type { StoreSettings } from './store-settings.ts'

export type { KeyMetadata, KMSClient } from '@aws-sdk/client-kms'

export interface AwsKmsSettings {
  readonly region: string
  /** Where it is not AWS's own. */
  readonly endpoint?: string | undefined
  /** Certificates in PEM of those who may have signed the endpoint's; the public ones where absent. */
  readonly ca?: string | undefined
  /** Where absent, the SDK looks for them: environment, files, the machine's role. */
  readonly credentials?: AwsCredentials | undefined
  /** Of each call, with what is tried again; making keys has its own time. */
  readonly timeoutMs?: number | undefined
  /** Whether keys are created over there; otherwise each is named by whoever creates a KMS key here. */
  readonly createsKeys: boolean
}

export interface AwsCredentials {
  readonly accessKeyId: string
  /** The secret access key, asked for now and then; what it gives is filled with zeros after use. */
  readonly openSecret: () => Uint8Array
}

/** From JSON: region, endpoint, caFile, accessKeyId with secretAccessKeyFile, timeoutMs; keyId where keys are not made. */
export function awsKmsSettings(members: StoreSettings): AwsKmsSettings {
  const accessKeyId = members.optionalText('accessKeyId')
  const secretFile = members.optionalText('secretAccessKeyFile')
  if ((accessKeyId === undefined) !== (secretFile === undefined)) {
    throw members.wrong('accessKeyId', 'accessKeyId and secretAccessKeyFile are needed together')
  }
  return {
    region: members.text('region'),
    endpoint: members.optionalText('endpoint'),
    ca: readAuthorities(members.optionalText('caFile')),
    credentials:
      accessKeyId === undefined || secretFile === undefined
        ? undefined
        : { accessKeyId, openSecret: () => readSecretLine(secretFile) },
    timeoutMs: members.optionalWhole('timeoutMs', 1, KEY_STORE_CALL_MS_MAX),
    createsKeys: members.optionalText('keyId') === undefined,
  }
}

export type Sdk = typeof sdkTypes

/** A call that was lost or throttled is made once more; whoever waits longer asks again. */
const ATTEMPTS_MAX = 2
/** So often the secret access key is asked for again: it may have been replaced. */
const CREDENTIALS_AGE_MS = 900_000

/** Throws CONFIG_INVALID. */
export async function loadSdk(): Promise<Sdk> {
  try {
    return await import('@aws-sdk/client-kms')
  } catch (cause) {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      'a key store of kind aws-kms needs a package that is not installed: npm install @aws-sdk/client-kms',
      cause,
    )
  }
}

/** Throws CONFIG_INVALID. */
export function openClient(sdk: Sdk, settings: AwsKmsSettings): KMSClient {
  const { region, endpoint, ca, credentials, timeoutMs = KEY_STORE_CALL_MS_DEFAULT } = settings
  if (endpoint !== undefined) checkEndpoint(endpoint)
  const agent = { keepAlive: true, maxSockets: KEY_STORE_CONNECTIONS_MAX }
  return new sdk.KMSClient({
    region,
    maxAttempts: ATTEMPTS_MAX,
    requestHandler: {
      connectionTimeout: timeoutMs,
      // Without it half an answer holds its connection for ever: the signal is not heard that late.
      socketTimeout: KEY_STORE_CREATE_MS,
      httpAgent: agent,
      httpsAgent: { ...agent, minVersion: 'TLSv1.2', ...(ca === undefined ? {} : { ca }) },
    },
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(credentials === undefined ? {} : { credentials: async () => identityOf(credentials) }),
  })
}

function identityOf({ accessKeyId, openSecret }: AwsCredentials): {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly expiration: Date
} {
  const secret = openSecret()
  try {
    const secretAccessKey = Buffer.from(secret).toString('utf8')
    return { accessKeyId, secretAccessKey, expiration: new Date(Date.now() + CREDENTIALS_AGE_MS) }
  } finally {
    secret.fill(0)
  }
}
