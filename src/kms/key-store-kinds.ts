/** The kinds of key stores that callers may create, and how each is treated. */
import type { KeyStoreKind, KeyStoreSettings } from '../format/key-store-settings.ts'
import type { GuardedStoreSettings } from '../key-stores/guarded.ts'

interface Kind {
  /** Which of its own kinds AWS KMS would call it, and what the origin of its keys usually is. */
  readonly type: 'AWS_CLOUDHSM' | 'EXTERNAL_KEY_STORE'
  /** Whether a key store is tried before it is taken (AWS KMS asks an XKS proxy for its health). */
  readonly tried: boolean
  /** What may be changed while it is connected (AWS KMS, UpdateCustomKeyStore). */
  readonly changeableConnected: readonly string[]
}

export const KINDS: Readonly<Record<KeyStoreKind, Kind>> = {
  pkcs11: { type: 'AWS_CLOUDHSM', tried: false, changeableConnected: [] },
  xks: {
    type: 'EXTERNAL_KEY_STORE',
    tried: true,
    changeableConnected: ['name', 'uriPath', 'accessKeyId', 'secret'],
  },
  'aws-kms': {
    type: 'EXTERNAL_KEY_STORE',
    tried: false,
    changeableConnected: ['name', 'accessKeyId', 'secret'],
  },
  transit: {
    type: 'EXTERNAL_KEY_STORE',
    tried: false,
    changeableConnected: ['name', 'secret'],
  },
}

/** What its guard is told; checked by checkSettings. */
export function guardSettingsOf(settings: KeyStoreSettings): Partial<GuardedStoreSettings> {
  const { deadlineMs, callsMax, required } = settings
  return {
    ...(deadlineMs === undefined ? {} : { deadlineMs: Number(deadlineMs) }),
    ...(callsMax === undefined ? {} : { callsMax: Number(callsMax) }),
    ...(required === undefined ? {} : { required: required === 'true' }),
  }
}
