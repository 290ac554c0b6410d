/** Callers of both doors of a keyfold in this process: the AWS SDK for JavaScript, and bare requests. */
import { KMS, type KMSClientConfig } from '@aws-sdk/client-kms'

import { defaultKeyPolicy } from '../../dist/kms/default-policy.js'
import { OPERATIONS } from '../../dist/server/aws/operations.js'
import { sign } from '../server/aws/signer.ts'
import { pack, unpack, type Body } from '../server/caller.ts'
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

/** What came, as it was sent and as it is read. */
export interface Got {
  readonly status: number
  readonly text: string
  readonly answer: Body
}

/** A principal at both doors. */
export interface Caller {
  readonly arn: string
  v1(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, fields?: object): Promise<Got>
  aws(operation: string, input: object): Promise<Got>
}

/** `actions`: of its token; the access key of the same principal needs a policy that allows them. */
export async function callerOf(
  service: Service,
  arn: string,
  actions: readonly string[] = ['*'],
): Promise<Caller> {
  const { tokens, accessKeys, config } = service.engine
  const { token } = await tokens.create({ name: 'test', principalArn: arn, actions, keys: ['*'] })
  const { record, secretAccessKey } = await accessKeys.create({ principalArn: arn })
  return {
    arn,
    v1: async (method, path, fields) => {
      const response = await fetch(`${service.url}/v1/${path}`, {
        method,
        headers: {
          authorization: `Bearer ${token}`,
          ...(fields === undefined ? {} : { 'content-type': 'application/msgpack' }),
        },
        ...(fields === undefined ? {} : { body: pack(fields) }),
      })
      const bytes = Buffer.from(await response.arrayBuffer())
      return {
        status: response.status,
        text: bytes.toString('latin1'),
        answer: unpack(bytes) as Body,
      }
    },
    aws: async (operation, input) => {
      const signed = sign({
        secret: secretAccessKey,
        accessKeyId: record.accessKeyId,
        signedAt: `${new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`,
        region: config.region,
        headers: {
          host: new URL(service.url).host,
          'content-type': 'application/x-amz-json-1.1',
          'x-amz-target': `TrentService.${operation}`,
        },
        body: JSON.stringify(input),
      })
      const response = await fetch(service.url, {
        method: 'POST',
        headers: { ...signed.headers },
        body: signed.body,
      })
      const text = await response.text()
      return { status: response.status, text, answer: JSON.parse(text) as Body }
    },
  }
}

const SOMEBODY = 'arn:aws:iam::000000000000:user/somebody'
const SIGNED = { Message: 'AAAA', SigningAlgorithm: 'ECDSA_SHA_256' }
const AUTHENTICATED = { Message: 'AAAA', MacAlgorithm: 'HMAC_SHA_256' }

const KEY_STORE = { CustomKeyStoreId: 'cks-1234567890abcdef0' }

/** Every operation of AWS KMS that is there, with members that all of them take as they are. */
export function everyAwsOperation(
  key: string,
  ciphertext: Uint8Array,
  alias: string,
  context: Readonly<Record<string, string>>,
): readonly (readonly [string, object])[] {
  const input = {
    KeyId: key,
    TargetKeyId: key,
    DestinationKeyId: key,
    AliasName: alias,
    Description: 'x',
    Plaintext: 'AAAA',
    CiphertextBlob: base64(ciphertext),
    EncryptionContext: context,
    SourceEncryptionContext: context,
    Tags: [{ TagKey: 'a', TagValue: 'b' }],
    TagKeys: ['a'],
  }
  const more: Readonly<Record<string, object>> = {
    GenerateDataKey: { NumberOfBytes: 32 },
    GenerateDataKeyWithoutPlaintext: { NumberOfBytes: 32 },
    GenerateRandom: { NumberOfBytes: 32 },
    GenerateDataKeyPair: { KeyPairSpec: 'ECC_NIST_P256' },
    GenerateDataKeyPairWithoutPlaintext: { KeyPairSpec: 'ECC_NIST_P256' },
    Sign: SIGNED,
    Verify: { ...SIGNED, Signature: 'AAAA' },
    GenerateMac: AUTHENTICATED,
    VerifyMac: { ...AUTHENTICATED, Mac: 'AAAA' },
    DeriveSharedSecret: { KeyAgreementAlgorithm: 'ECDH', PublicKey: 'AAAA' },
    GetParametersForImport: {
      WrappingAlgorithm: 'RSAES_OAEP_SHA_256',
      WrappingKeySpec: 'RSA_2048',
    },
    ImportKeyMaterial: {
      ImportToken: 'AAAA',
      EncryptedKeyMaterial: 'AAAA',
      ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
    },
    PutKeyPolicy: { Policy: defaultKeyPolicy('000000000000') },
    CreateGrant: { GranteePrincipal: SOMEBODY, Operations: ['Encrypt'] },
    ListRetirableGrants: { RetiringPrincipal: SOMEBODY },
    RetireGrant: { GrantId: 'a'.repeat(64) },
    RevokeGrant: { GrantId: 'a'.repeat(64) },
    ReplicateKey: { ReplicaRegion: 'eu-west-1' },
    UpdatePrimaryRegion: { PrimaryRegion: 'eu-west-1' },
    CreateCustomKeyStore: {
      CustomKeyStoreName: 'proxy',
      CustomKeyStoreType: 'EXTERNAL_KEY_STORE',
      XksProxyConnectivity: 'PUBLIC_ENDPOINT',
      XksProxyUriEndpoint: 'https://proxy.invalid',
      XksProxyUriPath: '/kms/xks/v1',
      XksProxyAuthenticationCredential: {
        AccessKeyId: 'A'.repeat(20),
        RawSecretAccessKey: 'A'.repeat(43),
      },
    },
    ConnectCustomKeyStore: KEY_STORE,
    DisconnectCustomKeyStore: KEY_STORE,
    UpdateCustomKeyStore: { ...KEY_STORE, NewCustomKeyStoreName: 'other' },
    DeleteCustomKeyStore: KEY_STORE,
  }
  return [...OPERATIONS.keys()].map((name) => [name, { ...input, ...more[name] }])
}

export function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
