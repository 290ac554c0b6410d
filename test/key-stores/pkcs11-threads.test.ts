/**
 * A module's thread that dies, and calls that never return (SoftHSM2 behind vendor-token.cc, which blocks for as long as
 * a file is there): who is told what and when, what goes on beside, and what becomes of keys that are made too late. The
 * clock of this thread is the test's; the module's thread has none.
 */
import { randomBytes } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import { GuardedKeyStore } from '../../dist/key-stores/guarded.js'
import type { KeyMaterial, KeyStore } from '../../dist/key-stores/key-store.js'
import { openPkcs11KeyStore, type Pkcs11Settings } from '../../dist/key-stores/pkcs11.js'
import { describeWithSoftHsm, hangsOf, strangerIn, withHabits, type SoftToken } from './softhsm.ts'

const AES = 'SYMMETRIC_DEFAULT'
const aad = Buffer.alloc(55, 1)
const text = Buffer.from('plaintext of the caller')
const unreachable = { code: 'KEY_STORE_UNREACHABLE' }
const crypto = createNodeCrypto()
/** From limits.ts. */
const CALL_MS_MAX = 30_000
const CREATE_MS_MAX = 300_000
const PAUSE_MS = 250

const pause = setTimeout
async function until(reached: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await reached())) await new Promise((resolve) => pause(resolve, 5))
}

describeWithSoftHsm('the thread of a PKCS#11 module', (create) => {
  let token: SoftToken
  let store: KeyStore
  let material: KeyMaterial
  let part: Uint8Array
  let hangs: ReturnType<typeof hangsOf>
  /** Those that were told anything, in the order of their first message. */
  let workers: Set<Worker>
  let regions: SharedArrayBuffer[]
  const post = Worker.prototype.postMessage

  beforeEach(() => {
    workers = new Set()
    regions = []
    Worker.prototype.postMessage = function (message: unknown, ...rest: never[]): void {
      workers.add(this)
      const { use } = message as { use?: { region: SharedArrayBuffer } }
      if (use !== undefined) regions.push(use.region)
      post.call(this, message, ...rest)
    }
    token = create()
    hangs = hangsOf(token)
  })
  afterEach(async () => {
    Worker.prototype.postMessage = post
    hangs.end()
    await store.close()
    // Nothing that hung is left, or the process would not end.
    await until(() => [...workers].every(({ threadId }) => threadId === -1))
    finalizeSoftHsm()
    expect(vi.getTimerCount()).toBe(0)
    vi.useRealTimers()
    token.remove()
  })

  /** The next test has another module, and behind it the same SoftHSM: a thread that ended too soon left it as it was. */
  function finalizeSoftHsm(): void {
    try {
      strangerIn(token).library.C_Finalize()
    } catch {
      // It is, which is what was wanted.
    }
  }

  async function openStore(more: Partial<Pkcs11Settings> = {}): Promise<void> {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    store = await openPkcs11KeyStore(crypto, {
      name: 'hsm',
      module: withHabits(token, 'hangs', more.calls ?? 'sync'),
      token: { label: token.label },
      pin: { source: 'file', file: token.pinFile },
      ...more,
    })
    material = await make()
    part = await wrap()
  }

  async function make(): Promise<KeyMaterial> {
    const kmsKeyId = randomBytes(16)
    const created = await store.createKeyMaterial(kmsKeyId, 1, AES)
    return { kmsKeyId, version: 1, keySpec: AES, ...created }
  }

  const wrap = (): Promise<Uint8Array> => store.wrapBytes(material, aad, text)
  const opened = async (): Promise<Buffer> =>
    Buffer.from(await store.unwrapBytes(material, aad, part))
  const refusalOf = (call: Promise<unknown>): Promise<{ readonly message: string }> =>
    call.then(
      () => Promise.reject(new Error('it was answered')),
      (error: Error) => error,
    )
  const kill = (): Promise<number> => ([...workers].at(-1) as Worker).terminate()
  const objects = (): number => token.tool('-O').match(/Key Object/g)?.length ?? 0

  /** A call that hangs in the module now, and how its caller will be refused. */
  const hanging = async (call?: () => Promise<unknown>): Promise<{ refusal: Promise<unknown> }> => {
    const before = hangs.count()
    hangs.begin()
    const refusal = refusalOf((call ?? wrap)())
    await until(() => hangs.count() === before + 1)
    return { refusal }
  }

  test('is replaced when it died, and what it was asked for is refused', async () => {
    await openStore()
    for (let i = 0; i < 3; i++) {
      const { refusal } = await hanging()
      const underWay = [refusal, ...Array.from({ length: 20 }, () => refusalOf(wrap()))]
      const killed = kill()
      hangs.end()
      await killed
      for (const refusal of underWay) expect(await refusal).toMatchObject(unreachable)
      // Not at once: one that dies whenever it starts would do nothing else.
      const before = workers.size
      await expect(opened()).rejects.toMatchObject(unreachable)
      expect(workers.size).toBe(before)
      vi.advanceTimersByTime(PAUSE_MS)
      expect(await opened()).toEqual(text)
      expect(workers.size).toBe(before + 1)
      const made = await make()
      await store.wrapBytes(made, aad, text)
      await store.probe()
    }
  })

  test('is not started ever more often when each dies at once', async () => {
    await openStore()
    const startedAt: number[] = []
    const origin = performance.now()
    await kill()
    while (startedAt.length < 6) {
      const before = workers.size
      const call = store.probe()
      if (workers.size > before) {
        startedAt.push(performance.now() - origin)
        await Promise.all([kill(), expect(call).rejects.toMatchObject(unreachable)])
      } else {
        await expect(call).rejects.toMatchObject(unreachable)
      }
      vi.advanceTimersByTime(50)
    }
    const pauses = startedAt.map((at, i) => at - (startedAt[i - 1] ?? 0))
    expect(pauses).toEqual([250, 500, 1_000, 2_000, 4_000, 8_000])
  })

  test.each(['sync', 'async'] as const)(
    'is replaced when a call hangs, which is told to its caller at the deadline (%s)',
    async (calls) => {
      await openStore({ calls })
      const { refusal } = await hanging()
      const held = regions.at(-1) as SharedArrayBuffer
      const behind = refusalOf(calls === 'sync' ? opened() : wrap())
      if (calls === 'async') await until(() => hangs.count() === 2)
      let told = false
      void refusal.then(() => (told = true))
      vi.advanceTimersByTime(CALL_MS_MAX - 1)
      await new Promise(setImmediate)
      expect(told).toBe(false)
      vi.advanceTimersByTime(1)
      expect(await refusal).toMatchObject(unreachable)
      expect(await behind).toMatchObject(unreachable)
      // The plaintext of the one is not left lying about for as long as the call hangs.
      expect(Buffer.from(held).includes(text)).toBe(false)
      // It hangs still.
      const before = hangs.count()
      expect(await opened()).toEqual(text)
      await store.probe()
      expect(workers.size).toBe(2)
      expect(hangs.count()).toBe(before)
      hangs.end()
      await until(() => [...workers][0]?.threadId === -1)
      const again = await wrap()
      expect(Buffer.from(await store.unwrapBytes(material, aad, again))).toEqual(text)
      expect(workers.size).toBe(2)
    },
  )

  test('is not replaced for as long as two hang, and again when they do not', async () => {
    await openStore()
    for (let i = 0; i < 2; i++) {
      const { refusal } = await hanging()
      vi.advanceTimersByTime(CALL_MS_MAX)
      expect(await refusal).toMatchObject(unreachable)
    }
    for (let i = 0; i < 5; i++) {
      const refusal = await refusalOf(opened())
      expect(refusal).toMatchObject(unreachable)
      expect(refusal.message).toMatch(/2 threads hang/)
    }
    expect(workers.size).toBe(2)
    hangs.end()
    await until(() =>
      opened().then(
        () => true,
        () => false,
      ),
    )
    await make()
  })

  test('that hangs keeps nobody from closing the store, nor from opening it again', async () => {
    await openStore()
    const { refusal } = await hanging()
    const closing = store.close()
    vi.advanceTimersByTime(CALL_MS_MAX)
    expect(await refusal).toMatchObject(unreachable)
    await closing
    await openAgain()
    expect(await opened()).toEqual(text)
  })

  async function openAgain(): Promise<void> {
    store = await openPkcs11KeyStore(crypto, {
      name: 'hsm',
      module: `${token.directory}/vendor-token-hangs-sync.so`,
      token: { label: token.label },
      pin: { source: 'file', file: token.pinFile },
    })
  }

  test('that hangs over a new key destroys it when it is heard of by nobody', async () => {
    await openStore()
    const { refusal } = await hanging(make)
    expect(objects()).toBe(2)
    vi.advanceTimersByTime(CREATE_MS_MAX)
    const error = (await refusal) as { readonly made: { readonly stored: Uint8Array } }
    expect(error).toMatchObject(unreachable)
    // Whoever asked knows by what it would be found, should the thread never come to that.
    expect(error.made.stored).toBeInstanceOf(Uint8Array)
    hangs.end()
    await until(() => objects() === 1)
    expect(await opened()).toEqual(text)
  })

  test('makes no key that nobody waits for any more', async () => {
    await openStore()
    const { refusal } = await hanging()
    const made = refusalOf(make())
    vi.advanceTimersByTime(CALL_MS_MAX)
    await Promise.all([refusal, made])
    hangs.end()
    await until(() => [...workers][0]?.threadId === -1)
    expect(objects()).toBe(1)
  })

  test('that died leaves what it made to be destroyed by its name', async () => {
    await openStore()
    const { refusal } = await hanging(make)
    const ended = kill()
    hangs.end()
    await ended
    const { made } = (await refusal) as { readonly made: Pick<KeyMaterial, 'stored' | 'publicKey'> }
    vi.advanceTimersByTime(PAUSE_MS)
    const orphan = {
      kmsKeyId: made.stored.subarray(6, 22),
      version: 1,
      keySpec: AES,
      ...made,
    } as const
    await store.destroyKeyMaterial(orphan)
    expect(objects()).toBe(1)
  })

  test('that hangs opens the circuit, and its successor closes it', async () => {
    await openStore()
    const changes: string[] = []
    const guarded = new GuardedKeyStore(store, {
      crypto,
      settings: { deadlineMs: 1_000, failuresMax: 3 },
      reserveWrap: () => undefined,
      onChange: (state) => void changes.push(state),
      onOrphan: () => undefined,
    })
    hangs.begin()
    const calls = Array.from({ length: 3 }, () => refusalOf(guarded.wrapBytes(material, aad, text)))
    await until(() => hangs.count() === 1)
    vi.advanceTimersByTime(1_000)
    for (const call of calls) expect(await call).toMatchObject(unreachable)
    expect(changes).toEqual(['open'])
    await until(() => {
      // No clock goes on while the successor is asked, which may be slow to start and does not hang.
      const isAsked = workers.size === 2 && guarded.guard.figures.state === 'half-open'
      if (!isAsked) vi.advanceTimersByTime(100)
      return changes.length === 2
    })
    expect(changes).toEqual(['open', 'closed'])
    expect(workers.size).toBe(2)
    expect(Buffer.from(await guarded.unwrapBytes(material, aad, part))).toEqual(text)
    guarded.guard.end(new Error('over') as never)
  })
})
