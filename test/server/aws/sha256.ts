/** SHA-256 and HMAC as the signer of the AWS SDK for JavaScript wants them. */
import { createHash, createHmac } from 'node:crypto'

export class Sha256 {
  readonly #hash: { update(bytes: string | Uint8Array): unknown; digest(): Uint8Array }
  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    this.#hash =
      secret === undefined
        ? createHash('sha256')
        : createHmac('sha256', secret as string | Uint8Array)
  }
  update(bytes: string | Uint8Array): void {
    this.#hash.update(bytes)
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(Uint8Array.from(this.#hash.digest()))
  }
  reset(): void {
    throw new Error('used once')
  }
}
