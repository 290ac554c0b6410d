/** Keys in SoftHSM2 keep the contract of key stores, by calls that block the thread and by calls that overlap. */
import { afterAll } from 'vitest'

import { openPkcs11KeyStore } from '../../dist/key-stores/pkcs11.js'
import { implementations } from '../crypto/implementations.ts'
import { conformance } from './conformance.ts'
import { describeWithSoftHsm } from './softhsm.ts'

describeWithSoftHsm('SoftHSM2', (create) => {
  const token = create()
  afterAll(() => token.remove())
  const [first, last] = [implementations[0], implementations.at(-1)]
  if (first === undefined || last === undefined) throw new Error('there is no cryptography')
  for (const [crypto, calls, random] of [
    [first, 'sync', 'token'],
    [last, 'async', 'host'],
  ] as const) {
    conformance(`a PKCS#11 token by ${calls} calls on ${crypto.implementation}`, async () => {
      const store = await openPkcs11KeyStore(crypto, {
        name: 'hsm',
        module: token.module,
        token: { label: token.label },
        pin: { source: 'file', file: token.pinFile },
        calls,
        random,
        sessionsMax: 4,
      })
      return {
        store,
        crypto,
        close: () => store.close(),
        // SoftHSM2 knows OAEP with SHA-1 only.
        algorithmsUnsupported: ['RSAES_OAEP_SHA_256'],
      }
    })
  }
})
