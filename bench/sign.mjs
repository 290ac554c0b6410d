// Requests of AWS KMS, signed as its SDKs sign them (Signature Version 4), as plain headers and a body: a load
// sends one of them over and over, which is good for the five minutes that its date stays acceptable.
import { createHash, createHmac } from 'node:crypto'

import { SignatureV4 } from '@smithy/signature-v4'

/** What the signer asks of a hash. */
class Sha256 {
  #hash

  constructor(key) {
    this.#hash = key === undefined ? createHash('sha256') : createHmac('sha256', key)
  }

  update(bytes) {
    this.#hash.update(bytes)
  }

  async digest() {
    return new Uint8Array(this.#hash.digest())
  }
}

/** `server` is what `keyfold serve --dev --ready-json` prints. Answers {headers, body}; Host comes with the URL. */
export async function signKmsRequest(server, operation, input) {
  const { protocol, hostname, port, host } = new URL(server.url)
  const signer = new SignatureV4({
    service: 'kms',
    region: server.region,
    credentials: {
      accessKeyId: server.accessKeyId,
      secretAccessKey: server.secretAccessKey,
    },
    sha256: Sha256,
  })
  const body = JSON.stringify(input)
  const { headers } = await signer.sign({
    protocol,
    hostname,
    port: Number(port),
    method: 'POST',
    path: '/',
    headers: {
      host,
      'content-type': 'application/x-amz-json-1.1',
      'x-amz-target': `TrentService.${operation}`,
    },
    body,
  })
  const { host: _, ...sent } = headers
  return { headers: sent, body }
}
