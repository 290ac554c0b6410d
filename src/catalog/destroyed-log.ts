/**
 * What was destroyed and stays destroyed, whatever copy of the catalog is restored: `destroyed.log` beside it, which no
 * backup of the catalog holds. It only grows. A line is on disk before the transaction that destroys commits, and every
 * line is carried out again when a catalog is opened.
 *
 *     key KEYID                        a KMS key with all of its material, and every replica of it
 *     material KEYID VERSION SHA256    one version, known by the hash of what the key store kept of it: the same
 *                                      version may be imported anew, and that is another sealing
 *     scrubbed                         nothing of what stands above was left in the catalog's files
 */
import { createHash } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import type { Kysely } from 'kysely'

import { KeyfoldError } from '../errors.ts'
import type { CatalogTables } from './schema.ts'

type CatalogQueries = Kysely<CatalogTables>

const FILE = 'destroyed.log'
const HEADER =
  '# keyfold, format 1: destroyed key material. Keep this file: a restored catalog is held against it.\n'
const SCRUBBED = 'scrubbed'
const LINE_PATTERN =
  /^(?:key ([0-9a-z-]{1,64})|material ([0-9a-z-]{1,64}) ([1-9]\d{0,9}) ([0-9a-f]{64})|scrubbed|#.*)$/

export interface DestroyedMaterial {
  readonly kmsKeyId: string
  readonly version: number
  /** SHA-256 of what the catalog kept, hex. */
  readonly hash: string
}

/** What a catalog is held against when it is opened, and what is written before anything is destroyed. */
export interface DestroyedRecord {
  readonly keys: ReadonlySet<string>
  readonly materials: Iterable<DestroyedMaterial>
  readonly isEmpty: boolean
  /** Durable before the transaction is; where both are in one database, with it. */
  recordKey(kmsKeyId: string, transaction: CatalogQueries): Promise<void>
  recordMaterials(
    materials: readonly DestroyedMaterial[],
    transaction: CatalogQueries,
  ): Promise<void>
  /** The catalog was restored, and held what was scrubbed from the one before. */
  mustScrub(db: CatalogQueries): Promise<void>
}

export class DestroyedLog implements DestroyedRecord {
  readonly #file: FileHandle
  readonly #keys = new Set<string>()
  /** By line. */
  readonly #materials = new Map<string, DestroyedMaterial>()
  /** Of whole lines; what lies behind them was never acknowledged. */
  #bytes = 0
  #scrubbed = true

  /** Errors: CATALOG_UNAVAILABLE. */
  static async open(dataDirectory: string): Promise<DestroyedLog> {
    const path = join(dataDirectory, FILE)
    const file = await open(path, 'a+', 0o600)
    try {
      const log = new DestroyedLog(file)
      log.#read(await file.readFile('utf8'), path)
      if (log.#bytes === 0) {
        await log.#append(HEADER)
        await syncDirectory(dataDirectory)
      }
      return log
    } catch (error) {
      await file.close()
      throw error
    }
  }

  private constructor(file: FileHandle) {
    this.#file = file
  }

  get keys(): ReadonlySet<string> {
    return this.#keys
  }

  get materials(): Iterable<DestroyedMaterial> {
    return this.#materials.values()
  }

  get isEmpty(): boolean {
    return this.#keys.size === 0 && this.#materials.size === 0
  }

  /** Whether the catalog's files may still hold bytes of something that was destroyed. */
  get needsScrub(): boolean {
    return !this.#scrubbed
  }

  async mustScrub(): Promise<void> {
    this.#scrubbed = false
  }

  /** On disk when the promise resolves; nothing is written of what stands there already. */
  async recordKey(kmsKeyId: string): Promise<void> {
    if (this.#keys.has(kmsKeyId)) return
    await this.#append(`key ${kmsKeyId}\n`)
    this.#keys.add(kmsKeyId)
    this.#scrubbed = false
  }

  async recordMaterials(materials: readonly DestroyedMaterial[]): Promise<void> {
    const added = materials
      .map((material) => [materialLine(material), material] as const)
      .filter(([line]) => !this.#materials.has(line))
    if (added.length === 0) return
    await this.#append(added.map(([line]) => `${line}\n`).join(''))
    for (const [line, material] of added) this.#materials.set(line, material)
    this.#scrubbed = false
  }

  async recordScrubbed(): Promise<void> {
    await this.#append(`${SCRUBBED}\n`)
    this.#scrubbed = true
  }

  async close(): Promise<void> {
    await this.#file.close()
  }

  #read(text: string, path: string): void {
    // A last line without its end was cut off by a crash, before anyone was told of it.
    const whole = text.slice(0, text.lastIndexOf('\n') + 1)
    for (const [index, line] of whole.split('\n').slice(0, -1).entries()) {
      const match = LINE_PATTERN.exec(line)
      if (match === null) {
        throw new KeyfoldError('CATALOG_UNAVAILABLE', `${path}: line ${index + 1} is not of it`)
      }
      this.#take(line, match)
    }
    this.#bytes = Buffer.byteLength(whole)
  }

  #take(line: string, [, key, kmsKeyId, version, hash]: RegExpExecArray): void {
    if (key !== undefined) this.#keys.add(key)
    if (kmsKeyId !== undefined && hash !== undefined) {
      this.#materials.set(line, { kmsKeyId, version: Number(version), hash })
    }
    if (!line.startsWith('#')) this.#scrubbed = line === SCRUBBED
  }

  async #append(lines: string): Promise<void> {
    // Whatever an append that failed has left.
    await this.#file.truncate(this.#bytes)
    await this.#file.appendFile(lines)
    await this.#file.sync()
    this.#bytes += Buffer.byteLength(lines)
  }
}

/** How a log knows what the catalog keeps of key material. */
export function hashOfStored(stored: Uint8Array): string {
  return createHash('sha256').update(stored).digest('hex')
}

function materialLine({ kmsKeyId, version, hash }: DestroyedMaterial): string {
  return `material ${kmsKeyId} ${version} ${hash}`
}

/** A new file outlives a power failure only when its directory is on disk too. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}
