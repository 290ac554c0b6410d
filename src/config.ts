/**
 * Flags, environment and file become one frozen Config. The only reader of process.env.
 * Order: flags, then environment (KEYFOLD_*), then the file, then the default.
 */

export interface Config {
  /** Directory of catalog, root key and logs. */
  readonly dataDirectory: string
  readonly listen: { readonly host: string; readonly port: number }
  /** Listening beyond loopback without TLS has to be asked for. */
  readonly plaintextAllowed: boolean
  readonly tls:
    | {
        readonly certFile: string
        readonly keyFile: string
        /** Client certificates: where given, a missing one is refused. */
        readonly clientCaFile: string | undefined
      }
    | undefined
  readonly region: string
  readonly account: string
  /** Where the root key comes from. */
  readonly rootKey:
    | { readonly source: 'file'; readonly file: string }
    | { readonly source: 'environment' }
    | { readonly source: 'passphrase' }
  /** KEYFOLD_CRYPTO: one implementation, `native` (any native one, or refuse to start), or the best there is. */
  readonly crypto: 'vaes' | 'aesni' | 'node' | 'native' | 'auto'
  readonly memoryLock: 'require' | 'warn'
  /** Worker threads for large batches; 0 does everything inline. */
  readonly workers: number
  readonly requestBytesMax: number
  readonly inFlightBytesMax: number
  readonly messageKey: {
    readonly ageMsMax: number
    readonly messagesMax: number
    readonly bytesMax: number
  }
  readonly dataKeyCacheEntries: number
  readonly missBudget: { readonly burst: number; readonly perSecond: number }
  readonly logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent'
}
