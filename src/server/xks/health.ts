/**
 * GetHealthStatus: whether encrypting and decrypting would work now. It is tried, under a key of its own, for AWS KMS's
 * customers would wonder about uses of theirs; and a result is told again for a while, for the check is asked often.
 */
import { readFileSync } from 'node:fs'

import type { Engine } from '../../engine.ts'
import { KeyfoldError } from '../../errors.ts'
import { XKS_HEALTH_AGE_MS_MAX } from '../../limits.ts'

const AAD = Buffer.from('keyfold/xks/v1/health')
const PROBE = Buffer.from('is it well?')
const VENDOR = 'keyfold'

export class XksHealth {
  readonly #engine: Engine
  readonly #model: string
  /** The latest check and when it began; a failed one is forgotten. */
  #check: { readonly startedMs: number; readonly healthy: Promise<void> } | undefined

  constructor(engine: Engine) {
    this.#engine = engine
    this.#model = `keyfold ${readVersion()}`
  }

  /** Errors: those of engine.ready(). */
  async describe(): Promise<Readonly<Record<string, unknown>>> {
    // However old the result is: a server that was locked says so at once.
    if (this.#engine.locked) throw new KeyfoldError('LOCKED')
    await this.#healthy()
    const model = `${this.#model} (${this.#engine.crypto.implementation})`
    return {
      xksProxyFleetSize: 1,
      xksProxyVendor: VENDOR,
      xksProxyModel: this.#model,
      ekmVendor: VENDOR,
      ekmFleetDetails: [{ id: VENDOR, model, healthStatus: 'ACTIVE' }],
    }
  }

  #healthy(): Promise<void> {
    const startedMs = performance.now()
    const known = this.#check
    if (known !== undefined && startedMs - known.startedMs < XKS_HEALTH_AGE_MS_MAX) {
      return known.healthy
    }
    const check = { startedMs, healthy: this.#try() }
    this.#check = check
    check.healthy.catch(() => {
      if (this.#check === check) this.#check = undefined
    })
    return check.healthy
  }

  async #try(): Promise<void> {
    const { crypto } = this.#engine
    await this.#engine.ready()
    const key = crypto.generateKey()
    try {
      const opened = crypto.unwrapBytes(key, AAD, crypto.wrapBytes(key, AAD, PROBE))
      if (!PROBE.equals(opened)) throw new KeyfoldError('INTERNAL', 'the cipher does not work')
    } finally {
      crypto.releaseKey(key)
    }
  }
}

function readVersion(): string {
  const file = new URL('../../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { readonly version: string }).version
}
