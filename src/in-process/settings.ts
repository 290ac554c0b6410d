/** Options of the caller's, and as settings of the engine. What they leave open, KEYFOLD_… and the defaults say. */
import { loadConfig, type Config, type SettingTexts } from '../config.ts'
import { KeyfoldError } from '../errors.ts'
import { IN_PROCESS_KEY_AGE_MS_DEFAULT } from '../limits.ts'

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

/** Errors: CONFIG_INVALID, naming the setting. */
export function configOf(options: OpenOptions, more: SettingTexts = {}): Config {
  const { limits = {}, cacheEntries, workers, crypto } = options
  const ageMsMax = limits.ageMsMax ?? IN_PROCESS_KEY_AGE_MS_DEFAULT
  const texts = {
    messageKeyAgeMsMax: ageMsMax,
    messageKeyMessagesMax: limits.messagesMax,
    messageKeyBytesMax: limits.bytesMax,
    dataKeyCacheEntries: cacheEntries,
    workers,
    crypto,
  }
  const flags = Object.entries(texts).filter(([, value]) => value !== undefined)
  return loadConfig({
    flags: { ...Object.fromEntries(flags.map(([name, value]) => [name, String(value)])), ...more },
  })
}

export function assertToken(token: string | undefined): string {
  if (token === undefined || token === '') {
    throw new KeyfoldError('CONFIG_INVALID', 'server.token is needed (keyfold tokens create)')
  }
  return token
}
