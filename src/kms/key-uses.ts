/**
 * How much was done under each version of each key: counted in memory, in the tick of the use, and added to the catalog
 * every few seconds. A kill loses what was counted since; a catalog that does not answer loses nothing.
 */
import type { Catalog } from '../catalog/catalog.ts'
import { addKeyUse, readKeyUses, type StoredKeyUse } from '../catalog/key-uses.ts'
import { KEY_USES_FLUSH_MS } from '../limits.ts'

/** One use, or as many as one batch is. */
export interface KeyUse {
  readonly kmsKeyId: string
  readonly version: number
  readonly messages: number
  readonly bytes: number
  readonly timeMs: number
  /** AWS KMS's name of it. */
  readonly operation: string
}

interface Counted {
  readonly version: number
  messages: number
  bytes: number
  lastUsedAtMs: number
  lastOperation: string
}

export class KeyUses {
  readonly #catalog: Catalog
  readonly #log: (message: string) => void
  readonly #timer: NodeJS.Timeout
  /** By key; a key has few versions in use. */
  #counted = new Map<string, Counted[]>()
  #flushing: Promise<void> = Promise.resolve()

  constructor(catalog: Catalog, log: (message: string) => void) {
    this.#catalog = catalog
    this.#log = log
    this.#timer = setInterval(() => {
      this.flush().catch((error: unknown) => {
        this.#log(`use counts of keys wait: the catalog does not take them: ${String(error)}`)
      })
    }, KEY_USES_FLUSH_MS).unref()
  }

  add(use: KeyUse): void {
    let versions = this.#counted.get(use.kmsKeyId)
    if (versions === undefined) {
      versions = []
      this.#counted.set(use.kmsKeyId, versions)
    }
    for (const counted of versions) {
      if (counted.version !== use.version) continue
      counted.messages += use.messages
      counted.bytes += use.bytes
      counted.lastUsedAtMs = use.timeMs
      counted.lastOperation = use.operation
      return
    }
    versions.push({
      version: use.version,
      messages: use.messages,
      bytes: use.bytes,
      lastUsedAtMs: use.timeMs,
      lastOperation: use.operation,
    })
  }

  /** Of one key, ascending by version, with everything that was counted up to now. */
  async read(kmsKeyId: string): Promise<readonly StoredKeyUse[]> {
    await this.flush()
    return readKeyUses(this.#catalog.db, kmsKeyId)
  }

  /** What was counted up to now is in the catalog when it resolves. */
  flush(): Promise<void> {
    const flush = this.#flushing.then(() => this.#flush())
    this.#flushing = flush.catch(() => undefined)
    return flush
  }

  /** A process that ends while the catalog is away ends nevertheless, as if it had been killed. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    await this.flush().catch((error: unknown) => {
      this.#log(`use counts of keys are lost: the catalog does not take them: ${String(error)}`)
    })
  }

  async #flush(): Promise<void> {
    if (this.#counted.size === 0) return
    const counted = this.#counted
    this.#counted = new Map()
    try {
      // Not a change that other nodes cache: the change number stays.
      await this.#catalog.write(async (transaction) => {
        for (const [kmsKeyId, versions] of counted) {
          for (const use of versions) await addKeyUse(transaction, { kmsKeyId, ...use })
        }
      })
    } catch (error) {
      for (const [kmsKeyId, versions] of counted) {
        for (const use of versions) this.#addBack(kmsKeyId, use)
      }
      throw error
    }
  }

  /** What was used meanwhile is later. */
  #addBack(kmsKeyId: string, use: Counted): void {
    const later = this.#counted.get(kmsKeyId)?.find(({ version }) => version === use.version)
    this.add({
      kmsKeyId,
      version: use.version,
      messages: use.messages,
      bytes: use.bytes,
      timeMs: later?.lastUsedAtMs ?? use.lastUsedAtMs,
      operation: later?.lastOperation ?? use.lastOperation,
    })
  }
}
