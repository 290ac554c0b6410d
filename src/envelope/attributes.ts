/**
 * What policies and grants may read of a batch. Nothing of it is worked out before somebody does: most keys have
 * policies that read none, and a request has 4 µs.
 */
import type { CanonicalContext } from '../data-keys/lease.ts'
import { decodeEncryptionContext } from '../format/encryption-context.ts'
import type { RequestAttributes, RequestOrigin } from '../kms/kms-key.ts'
import { aliasNameOf } from '../kms/reference.ts'

export class BatchAttributes implements RequestAttributes {
  readonly #context: CanonicalContext
  readonly #key: string | undefined
  readonly #origin: RequestOrigin | undefined
  readonly parameters: RequestAttributes['parameters'] & object

  /** `key`: as the caller named it; undefined where ciphertexts name it. */
  constructor(
    context: CanonicalContext,
    key: string | undefined,
    origin: RequestOrigin | undefined,
    parameters: RequestAttributes['parameters'] & object = NO_PARAMETERS,
  ) {
    this.#context = context
    this.#key = key
    this.#origin = origin
    this.parameters = parameters
  }

  get encryptionContext(): ReadonlyMap<string, string> {
    const known = decoded.get(this.#context)
    if (known !== undefined) return known
    const pairs = new Map(decodeEncryptionContext(this.#context.bytes))
    decoded.set(this.#context, pairs)
    return pairs
  }

  get alias(): string | undefined {
    return this.#key === undefined ? undefined : aliasNameOf(this.#key)
  }

  get sourceAddress(): string | undefined {
    return this.#origin?.sourceAddress
  }

  get secureTransport(): boolean | undefined {
    return this.#origin?.secureTransport
  }
}

const NO_PARAMETERS = {}

/** A pipeline sends one context with every request, and the server remembers it. */
const decoded = new WeakMap<CanonicalContext, ReadonlyMap<string, string>>()
