/**
 * One call of the AWS protocol: who asks, where, and what they may. Operations ask for keys here and nowhere else, so
 * that permission always comes before existence and state.
 */
import type { Engine } from '../../engine.ts'
import type { MaterialUse } from '../../envelope/batch.ts'
import { KeyfoldError } from '../../errors.ts'
import type {
  Action,
  KmsKey,
  Principal,
  RequestAttributes,
  RequestOrigin,
} from '../../kms/kms-key.ts'
import { aliasNameOf } from '../../kms/reference.ts'

export interface CallOrigin {
  readonly engine: Engine
  readonly principal: Principal
  /** Of the request's credential scope: what is named by no ARN is looked for here. */
  readonly region: string
  readonly requestId: string
  readonly origin: RequestOrigin
}

export class Call {
  readonly engine: Engine
  readonly principal: Principal
  readonly region: string
  readonly requestId: string
  readonly origin: RequestOrigin
  /** What the record of this call names. */
  readonly keyArns: string[] = []
  /** What was done under which key material. */
  readonly uses: MaterialUse[] = []
  /** Of plaintexts, messages and shared secrets: as many as were worked on. */
  bytes = 0
  /** The first one that it brought, as its record tells it. */
  encryptionContext: ReadonlyMap<string, string> | undefined

  constructor({ engine, principal, region, requestId, origin }: CallOrigin) {
    this.engine = engine
    this.principal = principal
    this.region = region
    this.requestId = requestId
    this.origin = { ...origin, region }
  }

  /** Cryptography was done with a key: counted once the call has succeeded. */
  used(kmsKey: KmsKey, bytes: number, materialVersion: number = kmsKey.currentVersion): void {
    this.uses.push({ kmsKey, materialVersion, messages: 1 })
    this.bytes += bytes
  }

  /** The key of this name, if the caller may do this with it. Throws ACCESS_DENIED, KMS_KEY_NOT_FOUND. */
  async key(
    reference: string,
    action: Action,
    attributes: RequestAttributes = {},
  ): Promise<KmsKey> {
    const kmsKey = await this.resolve(reference, action)
    this.authorize(action, kmsKey, { alias: aliasNameOf(reference), ...attributes })
    return kmsKey
  }

  /** The key of this name, if there is one. Whether there is tells the caller something: they are asked for it elsewhere. */
  async find(reference: string): Promise<KmsKey | undefined> {
    if (!this.#isOfThisRegion(reference)) return undefined
    try {
      return await this.engine.kms.registry.resolve(reference, this.region)
    } catch (error) {
      if (error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND') return undefined
      throw error
    }
  }

  /** As key, of whose permission is asked when more is known. */
  async resolve(reference: string, action: Action): Promise<KmsKey> {
    const notFound = (detail: string, cause?: unknown): KeyfoldError =>
      this.absent(new KeyfoldError('KMS_KEY_NOT_FOUND', detail, cause), action)
    if (!this.#isOfThisRegion(reference)) throw notFound(`Invalid arn ${this.region}`)
    try {
      return await this.engine.kms.registry.resolve(reference, this.region)
    } catch (error) {
      if (!(error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND')) throw error
      throw notFound(`Key '${reference}' does not exist`, error)
    }
  }

  /** The key that a ciphertext names. To whoever may not use it, it is as if it were not there. */
  async keyOfCiphertext(
    idBytes: Uint8Array,
    action: Action,
    attributes: RequestAttributes = {},
  ): Promise<KmsKey> {
    try {
      const kmsKey = await this.engine.kms.registry.resolveById(idBytes, this.region)
      this.authorize(action, kmsKey, attributes)
      return kmsKey
    } catch (error) {
      if (!(error instanceof KeyfoldError)) throw error
      if (error.code !== 'KMS_KEY_NOT_FOUND' && error.code !== 'ACCESS_DENIED') throw error
      throw new KeyfoldError('ACCESS_DENIED', CIPHERTEXT_OF_NO_KEY, error)
    }
  }

  authorize(action: Action, kmsKey: KmsKey, attributes: RequestAttributes): void {
    this.keyArns.push(kmsKey.arn)
    this.encryptionContext ??= attributes.encryptionContext
    try {
      this.engine.authorizer.authorize(this.principal, action, kmsKey, {
        ...this.origin,
        ...attributes,
      })
    } catch (error) {
      throw this.#denied(error, action)
    }
  }

  /** For operations that concern no single key. */
  authorizeService(action: Action, attributes: RequestAttributes = {}): void {
    try {
      const asked = { ...this.origin, ...attributes }
      this.engine.authorizer.authorizeService(this.principal, action, asked)
    } catch (error) {
      throw this.#denied(error, action)
    }
  }

  /** The alias's own part of an operation on it; its keys are asked for besides. */
  authorizeAlias(action: Action, alias: string): void {
    try {
      this.engine.authorizer.authorizeAlias(this.principal, action, alias, this.origin)
    } catch (error) {
      throw this.#denied(error, action)
    }
  }

  /** A region serves its own keys, also where this server keeps others. */
  #isOfThisRegion(reference: string): boolean {
    return !reference.startsWith('arn:') || reference.split(':', 4)[3] === this.region
  }

  /** That something is not there is told to those alone who may do this with every key. */
  absent(notFound: KeyfoldError, action: Action): KeyfoldError {
    const told = this.engine.authorizer.absentKeyError(this.principal, action)
    return told.code === 'KMS_KEY_NOT_FOUND' ? notFound : this.denied(action, notFound)
  }

  #denied(error: unknown, action: Action): unknown {
    const isDenial = error instanceof KeyfoldError && error.code === 'ACCESS_DENIED'
    return isDenial ? this.denied(action, error) : error
  }

  /** One text, whether the key is absent, disabled or forbidden. */
  denied(action: Action, cause?: unknown): KeyfoldError {
    return new KeyfoldError(
      'ACCESS_DENIED',
      `User: ${this.principal.arn} is not authorized to perform: ${action} on this resource because the ` +
        'resource does not exist in this Region, no policy or grant allows it, or a policy explicitly denies it',
      cause,
    )
  }
}

const CIPHERTEXT_OF_NO_KEY =
  'The ciphertext refers to a customer master key that does not exist, does not exist in this region, ' +
  'or you are not allowed to access.'
