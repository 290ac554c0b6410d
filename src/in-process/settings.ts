/** Options of the caller's as settings of the engine. What they leave open, KEYFOLD_… and the defaults say. */
import { loadConfig, type Config, type SettingTexts } from '../config.ts'
import { KeyfoldError } from '../errors.ts'
import { IN_PROCESS_KEY_AGE_MS_DEFAULT } from '../limits.ts'
import type { OpenOptions } from './open.ts'

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
