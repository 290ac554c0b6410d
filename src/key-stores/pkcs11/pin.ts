/**
 * Where the PIN of a token comes from. It is read anew for each login; only one from the environment is kept, sealed
 * under a key of the key table: it is forgotten in the environment when it is read, and a token may be closed and opened
 * again as often as it likes until the server is locked.
 */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'

import { takeSecret } from '../../config.ts'
import type { Crypto } from '../../crypto/crypto.ts'
import { KeyfoldError } from '../../errors.ts'
import { PIN_BYTES_MAX, PIN_COMMAND_MS_MAX } from '../../limits.ts'

export type PinSource =
  | { readonly source: 'file'; readonly file: string }
  | { readonly source: 'environment'; readonly name: string }
  /** Of a shell; the PIN is what it prints. */
  | { readonly source: 'command'; readonly command: string }
  /** It is kept sealed elsewhere; what `open` gives is filled with zeros after use. */
  | { readonly source: 'sealed'; readonly open: () => Uint8Array }

export interface Pin {
  /** UTF-8, without the newline that ends a file. The caller fills it with zeros. Throws CONFIG_INVALID. */
  read(): Promise<Uint8Array>
  forget(): void
}

const NO_AAD = new Uint8Array(0)
const NEWLINE = 0x0a
const CARRIAGE_RETURN = 0x0d

/** Throws CONFIG_INVALID where the environment does not have it. */
export function pinOf(crypto: Crypto, source: PinSource): Pin {
  switch (source.source) {
    case 'environment':
      return keptPin(crypto, source.name)
    case 'file':
      return { read: () => readPinFile(source.file), forget: () => undefined }
    case 'sealed':
      return { read: async () => source.open(), forget: () => undefined }
    case 'command':
      return { read: () => askCommand(source.command), forget: () => undefined }
  }
}

/** By the names of their variables; each is sealed in the key table of its Crypto. */
const keptPins = new WeakMap<Crypto, Map<string, Pin>>()

function keptPin(crypto: Crypto, name: string): Pin {
  const pins = keptPins.get(crypto) ?? new Map<string, Pin>()
  keptPins.set(crypto, pins)
  const secret = takeSecret(name)
  // A variable that was set since is a newer one.
  const kept = secret === undefined ? pins.get(name) : undefined
  if (kept !== undefined) return kept
  if (secret === undefined) throw invalid(`the environment variable ${name} is not set`)
  const pin = sealedPin(crypto, checked(Buffer.from(secret), `the variable ${name}`), () => {
    if (pins.get(name) === pin) pins.delete(name)
  })
  pins.set(name, pin)
  return pin
}

/** `bytes` are zeros on return. */
function sealedPin(crypto: Crypto, bytes: Uint8Array, onForget: () => void): Pin {
  const key = crypto.generateKey()
  try {
    const sealed = crypto.wrapBytes(key, NO_AAD, bytes)
    let isKept = true
    return {
      read: async () => crypto.unwrapBytes(key, NO_AAD, sealed),
      forget: () => {
        if (!isKept) return
        isKept = false
        onForget()
        release(crypto, key)
      },
    }
  } catch (error) {
    crypto.releaseKey(key)
    throw error
  } finally {
    bytes.fill(0)
  }
}

async function readPinFile(file: string): Promise<Uint8Array> {
  let bytes: Buffer
  try {
    bytes = await readFile(file)
  } catch (cause) {
    throw invalid(`the PIN file ${file} cannot be read`, cause)
  }
  return checked(bytes, `the PIN file ${file}`)
}

function askCommand(command: string): Promise<Uint8Array> {
  const options = {
    encoding: 'buffer',
    timeout: PIN_COMMAND_MS_MAX,
    maxBuffer: PIN_BYTES_MAX,
  } as const
  return new Promise((resolve, reject) => {
    execFile('/bin/sh', ['-c', command], options, (error, stdout) => {
      if (error !== null) {
        stdout.fill(0)
        // The error of Node repeats the command, which may hold a secret, and what it printed.
        reject(invalid(`the PIN command ended with ${error.code ?? error.signal ?? 'an error'}`))
        return
      }
      try {
        resolve(checked(stdout, 'what the PIN command printed'))
      } catch (cause) {
        reject(cause as Error)
      }
    })
  })
}

/** A view without the newline. */
function checked(bytes: Buffer, where: string): Uint8Array {
  let end = bytes.length
  if (bytes[end - 1] === NEWLINE) end--
  if (bytes[end - 1] === CARRIAGE_RETURN) end--
  if (end < 1 || end > PIN_BYTES_MAX) {
    bytes.fill(0)
    throw invalid(`${where}: a PIN of 1 to ${PIN_BYTES_MAX} bytes is needed`)
  }
  return bytes.subarray(0, end)
}

function release(crypto: Crypto, key: number): void {
  try {
    crypto.releaseKey(key)
  } catch (error) {
    // After wipeAllKeys the slot is gone already, which is what was wanted.
    if (!(error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE')) throw error
  }
}

function invalid(detail: string, cause?: unknown): KeyfoldError {
  return new KeyfoldError('CONFIG_INVALID', detail, cause)
}
