/**
 * Work with key pairs in this process, so much of it at once: it takes milliseconds, RSA keys take seconds to make, and
 * libuv has four threads for it, which files and DNS need too. What does not fit waits, by turns of those who ask for
 * it (store-queue.ts), and beyond that is refused: hundreds of keys that one caller wants keep the others waiting for a
 * few of them.
 *
 * The bounds are the process's, as the threads are.
 */
import { generateKeyPair as generate, isRsa, type KeyPair } from '../crypto/key-pair.ts'
import type { AsymmetricKeySpec } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import {
  KEY_PAIR_USES_MAX,
  KEY_PAIR_USES_WAITING_MAX,
  RSA_GENERATIONS_MAX,
  RSA_GENERATIONS_WAITING_MAX,
} from '../limits.ts'
import type { StoreTurn } from './key-store.ts'
import { NOBODYS_TURN, StoreQueue } from './store-queue.ts'

interface Work {
  readonly queue: StoreQueue
  /** What whoever is refused is told. */
  readonly full: string
}

const generations: Work = {
  queue: new StoreQueue({
    callsMax: RSA_GENERATIONS_MAX,
    waitingMax: RSA_GENERATIONS_WAITING_MAX,
  }),
  full: `${RSA_GENERATIONS_WAITING_MAX} RSA keys are waiting to be made`,
}
const uses: Work = {
  queue: new StoreQueue({ callsMax: KEY_PAIR_USES_MAX, waitingMax: KEY_PAIR_USES_WAITING_MAX }),
  full: `${KEY_PAIR_USES_WAITING_MAX} uses of key pairs are waiting`,
}

/** For KMS keys, data key pairs (GenerateDataKeyPair) and wrapping keys of imports alike. Throws OVERLOADED. */
export function generateKeyPair(spec: AsymmetricKeySpec, turn?: StoreTurn): Promise<KeyPair> {
  // A point of a curve takes no longer than a signature, and would wait for RSA keys in vain.
  return inTurn(isRsa(spec) ? generations : uses, turn, () => generate(spec))
}

/** Signing, decrypting and agreeing with a private key that is here. Errors: OVERLOADED, what `use` throws. */
export function useKeyPair<T>(turn: StoreTurn | undefined, use: () => Promise<T>): Promise<T> {
  return inTurn(uses, turn, use)
}

function inTurn<T>(
  { queue, full }: Work,
  turn: StoreTurn | undefined,
  work: () => Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const call = {
      turn: turn ?? NOBODYS_TURN,
      start: () => {
        // Some of it is done on the event loop: whatever else has come is served before the next.
        setImmediate(() => {
          const done = (): void => queue.done(call)
          void work().then(resolve, reject).finally(done)
        })
      },
      drop: () => reject(new KeyfoldError('OVERLOADED', full)),
    }
    queue.add(call)
  })
}
