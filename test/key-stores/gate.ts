/**
 * A key store elsewhere that a test closes and opens: a real local store of another root key, behind a gate. What is
 * under test is what stands in front of it.
 */
import type { Crypto, KeyHandle } from '../../dist/crypto/crypto.js'
import type { Engine } from '../../dist/engine.js'
import { KeyfoldError } from '../../dist/errors.js'
import type { KeyMaterial, KeyStore, KeyStoreTraits } from '../../dist/key-stores/key-store.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'

type Arguments<M extends keyof KeyStore> = KeyStore[M] extends (...given: infer A) => unknown
  ? A
  : never

export class GatedStore implements KeyStore {
  readonly name: string
  readonly traits: KeyStoreTraits
  /**
   * held: calls wait at the gate, as with a system that hangs. away: they are refused there. broken: they fail in a way
   * that no store should.
   */
  gate: 'open' | 'held' | 'away' | 'broken' = 'open'
  /** Every call that came to the gate, by its name. */
  readonly calls: string[] = []
  /** Bytes that calls answered or took: whoever wipes them wipes these. */
  readonly answers: Uint8Array[] = []
  readonly imported: Uint8Array[] = []
  readonly #inner: LocalKeyStore
  readonly #held: (() => void)[] = []

  constructor(crypto: Crypto, traits: Partial<KeyStoreTraits> = {}, name = 'elsewhere') {
    const root = crypto.generateKey()
    this.#inner = new LocalKeyStore(crypto, { current: { version: 1, key: root } })
    crypto.releaseKey(root)
    this.name = name
    this.traits = { ...this.#inner.traits, ...traits }
  }

  /** Lets the first so many that wait at the gate pass, all where absent. */
  async release(count = this.#held.length): Promise<void> {
    for (const pass of this.#held.splice(0, count)) pass()
    for (let i = 0; i < 20; i++) await new Promise(setImmediate)
  }

  count(name: string): number {
    return this.calls.filter((call) => call === name).length
  }

  async #through<T>(name: string, work: () => Promise<T>): Promise<T> {
    this.calls.push(name)
    if (this.gate === 'held') await new Promise<void>((pass) => this.#held.push(pass))
    // Also for those who were held.
    if (this.gate === 'away') throw new KeyfoldError('KEY_STORE_UNREACHABLE', 'the gate is closed')
    if (this.gate === 'broken') throw new TypeError('the gate is broken')
    const answer = await work()
    if (answer instanceof Uint8Array) this.answers.push(answer)
    return answer
  }

  createKeyMaterial(...given: Arguments<'createKeyMaterial'>) {
    const [kmsKeyId, version, keySpec] = given
    return this.#through('createKeyMaterial', () =>
      this.#inner.createKeyMaterial(kmsKeyId, version, keySpec),
    )
  }
  importKeyMaterial(...given: Arguments<'importKeyMaterial'>) {
    const [kmsKeyId, version, keySpec, plaintext] = given
    return this.#through('importKeyMaterial', () => {
      this.imported.push(Uint8Array.from(plaintext))
      return this.#inner.importKeyMaterial(kmsKeyId, version, keySpec, plaintext)
    })
  }
  wrapKey(material: KeyMaterial, aad: Uint8Array, key: KeyHandle) {
    return this.#through('wrapKey', () => this.#inner.wrapKey(material, aad, key))
  }
  wrapMessageKey(material: KeyMaterial, aad: Uint8Array, key: KeyHandle) {
    return this.#through('wrapMessageKey', () => this.#inner.wrapMessageKey(material, aad, key))
  }
  unwrapKey(material: KeyMaterial, aad: Uint8Array, part: Uint8Array) {
    return this.#through('unwrapKey', () => this.#inner.unwrapKey(material, aad, part))
  }
  wrapBytes(material: KeyMaterial, aad: Uint8Array, plaintext: Uint8Array) {
    return this.#through('wrapBytes', () => this.#inner.wrapBytes(material, aad, plaintext))
  }
  unwrapBytes(material: KeyMaterial, aad: Uint8Array, part: Uint8Array) {
    return this.#through('unwrapBytes', () => this.#inner.unwrapBytes(material, aad, part))
  }
  sign(...[material, signable]: Arguments<'sign'>) {
    return this.#through('sign', () => this.#inner.sign(material, signable))
  }
  decryptWithPrivateKey(...given: Arguments<'decryptWithPrivateKey'>) {
    const [material, algorithm, ciphertext] = given
    return this.#through('decryptWithPrivateKey', () =>
      this.#inner.decryptWithPrivateKey(material, algorithm, ciphertext),
    )
  }
  deriveSharedSecret(...[material, algorithm, peer]: Arguments<'deriveSharedSecret'>) {
    return this.#through('deriveSharedSecret', () =>
      this.#inner.deriveSharedSecret(material, algorithm, peer),
    )
  }
  generateMac(...[material, algorithm, message]: Arguments<'generateMac'>) {
    return this.#through('generateMac', () => this.#inner.generateMac(material, algorithm, message))
  }
  destroyKeyMaterial(material: KeyMaterial) {
    return this.#through('destroyKeyMaterial', () => this.#inner.destroyKeyMaterial(material))
  }
  forget(kmsKeyId: Uint8Array): void {
    this.#inner.forget(kmsKeyId)
  }
  lock(): void {
    this.#inner.lock()
  }
  probe(): Promise<void> {
    return this.#through('probe', () => this.#inner.probe())
  }
  close(): Promise<void> {
    return this.#inner.close()
  }
}

/** Creates and connects the store that the engine's `keyStoreOpener` gives, whatever it is told; its id. */
export async function connectStore(engine: Engine): Promise<string> {
  const { keyStores } = engine.kms
  const { id } = await keyStores.create({
    name: 'elsewhere',
    kind: 'aws-kms',
    settings: { region: 'eu-west-1', accessKeyId: 'AKIAIOSFODNN7EXAMPLE' },
    secret: Buffer.from('secret'),
  })
  await keyStores.connect(id)
  const { connectionState } = await keyStores.settled(id)
  if (connectionState !== 'CONNECTED') throw new Error(`the store is ${connectionState}`)
  return id
}
