/**
 * The thread of a PKCS#11 module: a call into a token may take milliseconds or hang, and the module may be initialised
 * once in a process. It serves every token that is opened in the module.
 */
import { parentPort, workerData, type MessagePort } from 'node:worker_threads'

import { KeyfoldError } from '../../errors.ts'
import { faultOf, StoreFault } from '../store-fault.ts'
import { begin, finish, isWanted, type CallState } from './call-state.ts'
import { loadCryptoki, returnValueOf, type Handle } from './cryptoki.ts'
import { DecryptRefused, HandleMoved, nameOf, unreachable } from './failures.ts'
import { decryptGcm, encryptGcm, tryGcm } from './gcm.ts'
import { Library } from './library.ts'
import { keySpecsOf } from './mechanisms.ts'
import type { FromWorker, KeyCall, KeyOperation, ModuleStart, ToWorker } from './messages.ts'
import {
  decryptOaep,
  deriveSecret,
  macMechanism,
  signingMechanism,
  signWith,
} from './private-keys.ts'
import { createKey, destroyKeyOf, findKey, isKey } from './token-keys.ts'
import { Token, type OpenToken, type Work } from './token.ts'

const port = parentPort as MessagePort
const tell = (message: FromWorker): void => port.postMessage(message)

const { path, hanging, isStale } = workerData as ModuleStart
let library: Library | undefined
const tokens = new Map<number, Token>()
const pins = new Map<number, (region: SharedArrayBuffer | undefined) => void>()

port.on('message', (message: ToWorker) => {
  switch (message.kind) {
    case 'open':
      void answer(message, () => openToken(message))
      break
    case 'reopen':
      reopenToken(message)
      break
    case 'use':
      void answer(message, () => use(tokenOf(message.token), message))
      break
    case 'probe':
      void answer(message, async () => {
        await tokenOf(message.token).probe()
        return { kind: 'done', call: message.call, outputBytes: 0 }
      })
      break
    case 'random':
      void answer(message, () => drawRandom(message))
      break
    case 'forget':
      tokens.get(message.token)?.forget(Buffer.from(message.kmsKeyId).toString('hex'))
      break
    case 'pin':
      pins.get(message.token)?.(message.region)
      pins.delete(message.token)
      break
    case 'end':
      void end()
      break
    case 'close':
      void answer(message, () => closeToken(message))
      break
  }
})

/** Whatever happens is an answer: nobody waits for ever, and the thread lives on. */
async function answer(
  { call, state }: { readonly call: number; readonly state: CallState },
  work: () => Promise<FromWorker>,
): Promise<void> {
  // Nobody waits for it, nor for an answer.
  if (!begin(state)) return
  try {
    const done = await work()
    finish(state)
    tell(done)
  } catch (error) {
    finish(state)
    if (error instanceof KeyfoldError) {
      const { code, detail } = error
      tell({ kind: 'failed', call, code, detail, fault: faultOf(error), cause: undefined })
    } else {
      const cause = error instanceof Error ? (error.stack ?? error.message) : String(error)
      tell({ kind: 'failed', call, code: 'INTERNAL', detail: undefined, fault: undefined, cause })
    }
  }
}

async function openToken({
  call,
  token: number,
  start,
}: Extract<ToWorker, { kind: 'open' }>): Promise<FromWorker> {
  const opened = openLibrary()
  try {
    opened.ensureInitialized()
  } catch (error) {
    const returnValue = returnValueOf(error)
    if (returnValue === undefined) throw error
    throw unreachable(`it answers ${nameOf(returnValue)}`)
  }
  const token = new Token(opened, start, () => askPin(number), false)
  try {
    const keySpecs = await token.perform(async ({ slot }) =>
      keySpecsOf(opened.cryptoki, slot, start.mechanism),
    )
    tokens.set(number, token)
    return { kind: 'opened', call, keySpecs }
  } catch (error) {
    const { refusal } = token
    await token.close()
    if (refusal === undefined) throw error
    const fault = faultOf(refusal) ?? 'credential'
    throw new StoreFault(fault, 'KEY_STORE_CREDENTIAL_INCORRECT', refusal.detail)
  }
}

/** Its first call opens it, and is told what is wrong. */
function reopenToken({ token, start }: Extract<ToWorker, { kind: 'reopen' }>): void {
  tokens.set(token, new Token(openLibrary(), start, () => askPin(token), true))
}

/** It is initialised by whoever needs it first. */
function openLibrary(): Library {
  if (library === undefined) {
    library = new Library(loadCryptoki(path), hanging)
    if (isStale) library.finalize()
  }
  return library
}

/** Also of a thread that was abandoned: others go on in the library, and its sessions are theirs to use. */
async function end(): Promise<void> {
  for (const token of tokens.values()) await token.close()
  library?.finalize()
  port.close()
}

async function closeToken({
  call,
  token: number,
}: Extract<ToWorker, { kind: 'close' }>): Promise<FromWorker> {
  const token = tokens.get(number)
  tokens.delete(number)
  await token?.close()
  return { kind: 'done', call, outputBytes: 0 }
}

function askPin(token: number): Promise<SharedArrayBuffer | undefined> {
  return new Promise((resolve) => {
    pins.set(token, resolve)
    tell({ kind: 'pinWanted', token })
  })
}

function tokenOf(number: number): Token {
  const token = tokens.get(number)
  if (token === undefined) throw unreachable('it is closed')
  return token
}

async function use(
  token: Token,
  { call, state, use: keyCall }: Extract<ToWorker, { kind: 'use' }>,
): Promise<FromWorker> {
  const { operation } = keyCall
  const work: Work<number> = async (open, session) => {
    switch (operation.kind) {
      case 'create':
        return create(token, open, keyCall, operation.wrapping, state)
      case 'destroy':
        destroyKeyOf((library as Library).cryptoki, open.slot, keyCall.key)
        return 0
      default:
        return useKey(token, open, session, keyCall)
    }
  }
  const outputBytes = await token.perform(work, () => isWanted(state))
  return { kind: 'done', call, outputBytes }
}

async function drawRandom({
  call,
  token,
  region,
}: Extract<ToWorker, { kind: 'random' }>): Promise<FromWorker> {
  const { cryptoki } = library as Library
  await tokenOf(token).perform(async (_open, session) => {
    cryptoki.C_GenerateRandom(session, Buffer.from(region))
  })
  return { kind: 'done', call, outputBytes: region.byteLength }
}

async function create(
  { calls, random }: Token,
  { slot }: OpenToken,
  { key, region }: KeyCall,
  wrapping: Extract<KeyOperation, { kind: 'create' }>['wrapping'],
  state: CallState,
): Promise<number> {
  const { cryptoki } = library as Library
  const publicKey = await createKey(cryptoki, slot, key, calls, async (session, handle) => {
    if (wrapping !== undefined) {
      const { mechanism, ivMode } = wrapping
      await tryGcm({ cryptoki, calls, session, key: handle, mechanism }, ivMode, random)
    }
    // From here on somebody hears of it. Where nobody does any more it is destroyed again.
    if (!finish(state)) throw unreachable('nobody waits for it any more')
  })
  Buffer.from(region).set(publicKey)
  return publicKey.length
}

/** With the handle that is known of it, or found now. */
async function useKey(
  token: Token,
  { handles }: OpenToken,
  session: Handle,
  call: KeyCall,
): Promise<number> {
  const { cryptoki } = library as Library
  const { key } = call
  const name = `${Buffer.from(key.id).toString('hex')}/${key.keySpec}`
  const handle = handles.get(name) ?? findKey(cryptoki, session, key)
  handles.set(name, handle)
  const wasThis = (): boolean => isKey(cryptoki, session, handle, key.id)
  try {
    const outputBytes = await operate(token, session, handle, call)
    // What opened with its tag opened under the right key; what was wrapped or signed would have been under any.
    if (call.operation.kind !== 'decrypt' && !wasThis()) throw new HandleMoved()
    return outputBytes
  } catch (error) {
    if (error instanceof DecryptRefused && !wasThis()) throw new HandleMoved()
    throw error
  }
}

function operate(
  { calls, random }: Token,
  session: Handle,
  key: Handle,
  { operation, region, aadBytes, inputBytes }: KeyCall,
): Promise<number> {
  const { cryptoki } = library as Library
  const aad = Buffer.from(region, 0, aadBytes)
  const input = Buffer.from(region, aadBytes, inputBytes)
  const output = Buffer.from(region, aadBytes + inputBytes)
  const call = { cryptoki, calls, session, key, input, output }
  switch (operation.kind) {
    case 'encrypt':
      return encryptGcm({ ...call, aad, mechanism: operation.mechanism }, operation.ivMode, random)
    case 'decrypt':
      return decryptGcm({ ...call, aad, mechanism: operation.mechanism })
    case 'sign':
      return signWith(call, signingMechanism(operation))
    case 'mac':
      return signWith(call, macMechanism(operation))
    case 'decryptOaep':
      return decryptOaep(call, operation.hash)
    case 'derive':
      return deriveSecret(call)
    case 'create':
    case 'destroy':
      throw new KeyfoldError('INTERNAL', 'a key that is made or destroyed is not used')
  }
}
