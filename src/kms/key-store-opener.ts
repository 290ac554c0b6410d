/** Opening key stores, which takes as long as the other side does, up to a limit; and closing them, which fails nobody. */
import { KeyfoldError } from '../errors.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import { KEY_STORE_CONNECT_MS_MAX } from '../limits.ts'
import { proxyErrorOf } from './connection-errors.ts'
import type { KeyStoreRecord } from './key-store-record.ts'

/** How a key store is reached. */
export interface KeyStoreAddress extends Pick<KeyStoreRecord, 'id' | 'name' | 'kind' | 'settings'> {
  /** What it gives its caller fills with zeros; undefined where there is no secret. Throws LOCKED. */
  readonly openSecret: (() => Uint8Array) | undefined
}

/** What was opened too late is closed. */
export type OpenKeyStore = (address: KeyStoreAddress) => Promise<KeyStore>

export class KeyStoreOpener {
  readonly #openKeyStore: OpenKeyStore
  readonly #log: (message: string) => void

  constructor(openKeyStore: OpenKeyStore, log: (message: string) => void) {
    this.#openKeyStore = openKeyStore
    this.#log = log
  }

  /** Opens it and asks whether it would wrap. */
  async open(address: KeyStoreAddress): Promise<KeyStore> {
    const { name } = address
    const opening = this.#openKeyStore(address).then(async (opened) => {
      try {
        await opened.probe()
        return opened
      } catch (error) {
        await this.close(opened, name)
        throw error
      }
    })
    return withinDeadline(opening, (late) => void this.close(late, name))
  }

  /** As open, of one that is not taken yet. */
  async openUntried(address: KeyStoreAddress): Promise<KeyStore> {
    try {
      return await this.open(address)
    } catch (error) {
      throw address.kind === 'xks' ? proxyErrorOf(error) : error
    }
  }

  async try(address: KeyStoreAddress): Promise<void> {
    await this.close(await this.openUntried(address), address.name)
  }

  /** Never rejects. */
  async close(opened: KeyStore, name: string): Promise<void> {
    try {
      await opened.close()
    } catch (error) {
      this.#log(`key store ${name} did not close: ${messageOf(error)}`)
    }
  }
}

async function withinDeadline(
  opening: Promise<KeyStore>,
  close: (late: KeyStore) => void,
): Promise<KeyStore> {
  let timer: NodeJS.Timeout | undefined
  let isLate = false
  const deadline = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      isLate = true
      reject(new KeyfoldError('KEY_STORE_UNREACHABLE', 'it did not open in time'))
    }, KEY_STORE_CONNECT_MS_MAX)
  })
  // Whoever gave up waiting does not close what comes.
  opening.then(
    (opened) => {
      if (isLate) close(opened)
    },
    () => undefined,
  )
  try {
    return await Promise.race([opening, deadline])
  } finally {
    clearTimeout(timer)
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
