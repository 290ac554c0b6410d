/** The AWS Encryption SDK's own KMS keyring, asking a server that is a process of its own through its AWS door. */
import { KmsKeyringNode, type KmsNodeClientSupplier } from '@aws-crypto/client-node'
import { KMS } from '@aws-sdk/client-kms'

import { jsonOf, keyfold, type Server } from './command.ts'

export async function kmsKeyringOf(
  server: Server,
  generatorKeyId: string,
  ...keyIds: string[]
): Promise<KmsKeyringNode> {
  const { url, region, account } = server.ready
  const principal = `arn:aws:iam::${account}:root`
  const made = await keyfold(['access-keys', 'create', '--principal', principal, '--json'], server)
  const { accessKeyId, secretAccessKey } =
    jsonOf<Readonly<Record<'accessKeyId' | 'secretAccessKey', string>>>(made)
  const kms = new KMS({ endpoint: url, region, credentials: { accessKeyId, secretAccessKey } })
  // The SDK's answers may lack what the keyring's own types say is there.
  const clientProvider = (() => kms) as unknown as KmsNodeClientSupplier
  return new KmsKeyringNode({ clientProvider, generatorKeyId, keyIds })
}
