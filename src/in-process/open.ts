/**
 * In-process mode: the engine in the caller's own process. The plaintext never crosses a network; message keys come from
 * a keyfold server, or from a data directory of this machine's. Ciphertexts are the server's, and each opens the other's.
 *
 * What it needs (the addon, the pool) is loaded when it is opened, and not by whoever uses the client library alone.
 */
import type { EncryptionContext, Messages } from '../client/wire.ts'
import type {
  DecryptedBatch,
  DetachedBatch,
  EncryptedBatch,
  PackedBatch,
} from '../client/keyfold.ts'
import { KeyfoldError } from '../errors.ts'

interface CommonOptions {
  /** What one message key may do before the next takes over. */
  readonly limits?: {
    /** 60 s where absent: what is revoked at the server ends here by then. */
    readonly ageMsMax?: number
    readonly messagesMax?: number
    readonly bytesMax?: number
  }
  /** Message keys kept, for sealing and opening each. */
  readonly cacheEntries?: number
  /** Threads for large batches; 0: none. 2 where absent. */
  readonly workers?: number
  /** KEYFOLD_CRYPTO where absent. */
  readonly crypto?: 'auto' | 'native' | 'vaes' | 'aesni' | 'node'
  /** What operators ought to know: silent where absent. */
  readonly log?: (message: string) => void
}

/** Needs `keyfold:ReleaseMessageKey` at the server. */
export interface ServerBackedOptions extends CommonOptions {
  readonly server: {
    readonly url?: string
    readonly token: string | undefined
    readonly tls?: { readonly ca?: string; readonly cert?: string; readonly key?: string }
  }
  /** Asks the server before every batch and KMS key: slower, and what is revoked ends at once. */
  readonly checksEveryLease?: boolean
}

/** Made by `keyfold init`; no server may run on it meanwhile. */
export interface LocalOptions extends CommonOptions {
  readonly dataDirectory: string
}

export type OpenOptions = ServerBackedOptions | LocalOptions

export interface InProcessCallOptions {
  readonly context?: EncryptionContext | undefined
}

export interface InProcessEncryptOptions extends InProcessCallOptions {
  /** 1: XAES-256-GCM, the default. 2: KC-XAES-256-GCM. */
  readonly suite?: 1 | 2 | undefined
}

export interface InProcessCounters {
  /** Message keys made and opened: by the server, or by the key store. */
  readonly wraps: number
  readonly unwraps: number
  /** Batches sealed and key entries opened from memory. */
  readonly sealHits: number
  readonly openHits: number
  /** Message keys in memory. */
  readonly sealKeys: number
  readonly openKeys: number
  /** Requests that the server has answered, refusals included; 0 without one. */
  readonly serverCalls: number
  readonly implementation: 'vaes' | 'aesni' | 'node'
}

export interface InProcessKeyfold {
  encrypt(
    key: string,
    plaintexts: Messages,
    options?: InProcessEncryptOptions & { readonly form?: 'inline' },
  ): Promise<EncryptedBatch>
  encrypt(
    key: string,
    plaintexts: Messages,
    options: InProcessEncryptOptions & { readonly form: 'detached' },
  ): Promise<DetachedBatch>
  encrypt(
    key: string,
    plaintexts: Messages,
    options: InProcessEncryptOptions & { readonly form: 'packed' },
  ): Promise<PackedBatch>
  /** A list of messages, or one packed value. One that does not open leaves undefined and an error in its place. */
  decrypt(
    ciphertexts: Messages | Uint8Array,
    options?: InProcessCallOptions & { readonly keyEntries?: Messages | undefined },
  ): Promise<DecryptedBatch>
  counters(): InProcessCounters
  /** Waits for what is under way, and wipes every key. */
  close(): Promise<void>
}

/** Errors: CONFIG_INVALID, NATIVE_UNAVAILABLE; of a data directory also ROOT_KEY_INVALID, CATALOG_UNAVAILABLE. */
export async function openKeyfold(options: OpenOptions): Promise<InProcessKeyfold> {
  if ('server' in options && 'dataDirectory' in options) {
    throw new KeyfoldError('CONFIG_INVALID', 'give a server or a data directory, not both')
  }
  if ('server' in options) {
    const { openServerBacked } = await import('./server-backed.ts')
    return openServerBacked(options)
  }
  if (typeof options.dataDirectory !== 'string' || options.dataDirectory === '') {
    throw new KeyfoldError('CONFIG_INVALID', 'give a server or a data directory')
  }
  const { openLocal } = await import('./local.ts')
  return openLocal(options)
}
