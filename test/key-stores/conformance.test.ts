/** The local key store keeps the contract of key stores, on every implementation of cryptography. */
import { randomBytes } from 'node:crypto'

import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { implementations } from '../crypto/implementations.ts'
import { conformance } from './conformance.ts'

for (const crypto of implementations) {
  conformance(`the local key store on ${crypto.implementation}`, async () => {
    const root = crypto.importKey(Uint8Array.from(randomBytes(32)))
    const store = new LocalKeyStore(crypto, { current: { version: 1, key: root } })
    crypto.releaseKey(root)
    return { store, crypto, close: () => store.close() }
  })
}
