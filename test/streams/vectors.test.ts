/** The public vectors of the AWS Encryption SDK's message format. */
import { inflateRawSync } from 'node:zlib'
import { expect } from 'vitest'

import { decryptBuffer, type Keyring, RawAesKeyring } from '../../dist/index.js'
import { deriveContentKey } from '../../dist/crypto/encryption-sdk-keys.js'
import { decodeHeader, encodeHeaderBody, measureHeader } from '../../dist/format/encryption-sdk.js'
import { hex, testVectorBytes, testVectors } from '../vectors.ts'

const base64 = (text: string): Buffer => Buffer.from(text, 'base64')

/** As the vectors have it: the data key is given. */
function staticKeyring(dataKey: (keyBytes: number) => Buffer): Keyring {
  const refuse = (): never => {
    throw new Error('this keyring opens only')
  }
  return {
    generateDataKey: refuse,
    wrapDataKey: refuse,
    unwrapDataKey: (_, { keyBytes }) => Promise.resolve(dataKey(keyBytes)),
  }
}

interface CommitmentVector {
  readonly ciphertext: string
  readonly commitment: string
  readonly 'content-encryption-key'?: string
  readonly 'decrypted-dek': string
  readonly 'message-id'?: string
  readonly header?: string
  readonly 'encryption-context': Readonly<Record<string, string>>
  readonly 'plaintext-frames'?: readonly string[]
  readonly status: boolean
}

testVectors(
  'the known answers for committing suites (aws-encryption-sdk-python, commitment-test-vectors.json)',
  'esdk/commitment-test-vectors.json',
  async (text) => {
    const { tests } = JSON.parse(text) as { readonly tests: readonly CommitmentVector[] }
    let opened = 0
    let refused = 0
    for (const vector of tests) {
      const message = base64(vector.ciphertext)
      const wire = message.subarray(0, measureHeader(message))
      const { header, body } = decodeHeader(wire)
      expect(encodeHeaderBody(header)).toEqual(new Uint8Array(body))
      // Of those to be refused, it is what the header should have.
      if (vector.status) {
        expect(Buffer.from(header.commitment)).toEqual(base64(vector.commitment))
      }
      if (vector['message-id'] !== undefined) {
        expect(Buffer.from(header.messageId)).toEqual(base64(vector['message-id']))
      }
      if (vector.header !== undefined) expect(Buffer.from(wire)).toEqual(base64(vector.header))
      const dataKey = base64(vector['decrypted-dek'])
      const contentKey = vector['content-encryption-key']
      if (contentKey !== undefined && vector.status) {
        const derived = deriveContentKey(header.suite, dataKey, header.messageId)
        expect(derived).toEqual(base64(contentKey))
      }
      const decrypting = decryptBuffer(
        staticKeyring(() => Buffer.from(dataKey)),
        message,
      )
      if (vector.status) {
        const { plaintext, header } = await decrypting
        expect(plaintext.toString()).toBe(vector['plaintext-frames']?.join(''))
        expect(header.context).toMatchObject(vector['encryption-context'])
        opened++
      } else {
        await expect(decrypting).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
        refused++
      }
    }
    expect([opened, refused]).toEqual([41, 5])
  },
)

interface OracleVector {
  readonly 'key-type': 'null' | 'test_counting' | 'aws-kms'
  readonly 'algorithm-suite': string
  readonly ciphertext: string
  readonly plaintext: string
}

testVectors(
  'messages of every uncommitted suite (aws-encryption-sdk-python, decrypt_oracle), under a policy that allows them',
  'esdk/decrypt_oracle_vectors.json',
  async (text) => {
    const vectors = (JSON.parse(text) as readonly OracleVector[]).filter(
      (vector) => vector['key-type'] !== 'aws-kms',
    )
    for (const vector of vectors) {
      const counting = vector['key-type'] === 'test_counting'
      const keyring = staticKeyring((keyBytes) =>
        Buffer.from(Array.from({ length: keyBytes }, (_, i) => (counting ? i + 1 : 0))),
      )
      const message = base64(vector.ciphertext)
      const { header, body } = decodeHeader(message.subarray(0, measureHeader(message)))
      expect(encodeHeaderBody(header)).toEqual(new Uint8Array(body))
      const { plaintext, header: found } = await decryptBuffer(keyring, message, {
        commitmentPolicy: 'REQUIRE_ENCRYPT_ALLOW_DECRYPT',
      })
      expect(plaintext).toEqual(base64(vector.plaintext))
      expect(Buffer.from([found.suiteId >> 8, found.suiteId & 0xff])).toEqual(
        hex(vector['algorithm-suite']),
      )
      expect(found.context).toMatchObject({ key1: 'val1', key2: 'val2' })
      for (const commitmentPolicy of [undefined, 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT'] as const) {
        await expect(decryptBuffer(keyring, message, { commitmentPolicy })).rejects.toMatchObject({
          code: 'COMMITMENT_REQUIRED',
        })
      }
    }
    expect(vectors).toHaveLength(18)
  },
)

interface ManifestTest {
  readonly ciphertext: string
  readonly 'master-keys': readonly { readonly key: string; readonly 'provider-id': string }[]
  readonly 'encryption-context': Readonly<Record<string, string>>
  readonly result: { readonly output: { readonly plaintext: string } }
}

testVectorBytes(
  'messages whose context is required and not stored (aws-encryption-sdk, valid-Net-4.0.0.zip)',
  'esdk/valid-Net-4.0.0.zip',
  async (archive) => {
    const files = unzip(archive)
    const read = (url: string): Buffer => {
      const file = files.get(url.replace('file://', ''))
      if (file === undefined) throw new Error(`the archive has no ${url}`)
      return file
    }
    const { keys } = JSON.parse(read('keys.json').toString()) as {
      readonly keys: Readonly<Record<string, { readonly material: string }>>
    }
    const { tests } = JSON.parse(read('manifest.json').toString()) as {
      readonly tests: Readonly<Record<string, ManifestTest>>
    }
    const commitmentPolicy = 'REQUIRE_ENCRYPT_ALLOW_DECRYPT'
    for (const vector of Object.values(tests)) {
      const [key] = vector['master-keys']
      if (key === undefined) throw new Error('a vector names no key')
      const keyring = new RawAesKeyring({
        namespace: key['provider-id'],
        name: key.key,
        wrappingKey: base64(keys[key.key]?.material ?? ''),
      })
      const message = read(vector.ciphertext)
      const context = vector['encryption-context']
      const found = await decryptBuffer(keyring, message, { context, commitmentPolicy })
      expect(found.plaintext).toEqual(read(vector.result.output.plaintext))
      expect(found.header.context).toMatchObject(context)
      await expect(
        decryptBuffer(keyring, message, { commitmentPolicy, context: { ...context, key2: '' } }),
      ).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
      await expect(
        decryptBuffer(keyring, message, {
          commitmentPolicy,
          requiredContextKeys: ['key1', 'key2'],
        }),
      ).rejects.toMatchObject({ code: 'CONTEXT_INVALID' })
    }
    expect(Object.keys(tests)).toHaveLength(5)
  },
)

/** The files of a zip archive (APPNOTE.TXT §4.3), stored or deflated. */
function unzip(archive: Buffer): ReadonlyMap<string, Buffer> {
  const files = new Map<string, Buffer>()
  const end = archive.lastIndexOf(Buffer.from('504b0506', 'hex'))
  let at = archive.readUInt32LE(end + 16)
  for (let left = archive.readUInt16LE(end + 10); left > 0; left--) {
    const method = archive.readUInt16LE(at + 10)
    const bytes = archive.readUInt32LE(at + 20)
    const nameBytes = archive.readUInt16LE(at + 28)
    const name = archive.toString('utf8', at + 46, at + 46 + nameBytes)
    const local = archive.readUInt32LE(at + 42)
    const start = local + 30 + archive.readUInt16LE(local + 26) + archive.readUInt16LE(local + 28)
    const stored = archive.subarray(start, start + bytes)
    files.set(name, method === 0 ? stored : inflateRawSync(stored))
    at += 46 + nameBytes + archive.readUInt16LE(at + 30) + archive.readUInt16LE(at + 32)
  }
  return files
}
