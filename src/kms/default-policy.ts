/** The key policy that CreateKey gives a key where the caller gives none (AWS KMS, "Default key policy"). */

/** The account's root may do everything, and so may whoever an identity policy of that account allows. */
export function defaultKeyPolicy(account: string): string {
  const statement = {
    Sid: 'Enable IAM User Permissions',
    Effect: 'Allow',
    Principal: { AWS: `arn:aws:iam::${account}:root` },
    Action: 'kms:*',
    Resource: '*',
  }
  return JSON.stringify({ Version: '2012-10-17', Id: 'key-default-1', Statement: [statement] })
}
