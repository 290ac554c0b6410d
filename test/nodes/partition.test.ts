/**
 * Two servers on one catalog, of which one loses the network to it: packets vanish and no connection ends. What was
 * answered holds, the one that is cut off stops when its lease is out, and comes back when the network does.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { describeWithPostgres } from '../catalog/postgres.ts'
import { jsonOf, keyfold, serve, type Server } from '../cli/command.ts'
import { callersWith, type Callers } from './callers.ts'
import { Network, type Cut } from './network.ts'

const ROOT_KEY = '3c'.repeat(32)
const CUTS: readonly Cut[] = ['both ways', 'what it asks', 'what it is answered']
const missing = Network.missing()

if (missing !== undefined) test.skip(`a partition (${missing})`, () => undefined)
else
  describeWithPostgres('a node that the network cuts off from the catalog', (postgres) => {
    const network = new Network()
    let parent: string
    let near: Server
    let far: Server
    let callers: Callers
    let startFar: () => Promise<Server>

    const env = { KEYFOLD_ROOT_KEY_SOURCE: 'environment', KEYFOLD_ROOT_KEY: ROOT_KEY }

    beforeAll(async () => {
      network.open()
      await postgres.stop()
      const letIn = [`host all all ${network.catalogAddress}/24 trust`]
      postgres.listen({ addresses: [network.catalogAddress], letIn })
      await postgres.start()
      parent = mkdtempSync(join(tmpdir(), 'keyfold-partition-'))
      const catalog = await postgres.createDatabase()
      const init = ['init', '--data', join(parent, 'init'), '--catalog', catalog, '--json']
      const { token } = jsonOf<{ token: string }>(await keyfold(init, { env }))
      callers = callersWith(token)
      const args = (name: string): string[] => ['--data', join(parent, name), '--workers', '0']
      const options = { token, env: { ...env, KEYFOLD_CATALOG: catalog } }
      near = await serve(args('near'), options)
      const url = `${postgres.urlAt(network.catalogAddress, catalog)}?sslmode=disable`
      const beyond = ['--listen', `${network.callersAddress}:0`, '--allow-plaintext', 'true']
      startFar = () =>
        serve([...args('far'), ...beyond], {
          ...options,
          env: { ...env, KEYFOLD_CATALOG: url },
          within: network.within,
        })
      far = await startFar()
    })
    afterAll(async () => {
      // Whatever else fails: it would stay on this machine.
      network.close()
      for (const node of [near, far]) await node.stop('SIGKILL')
      rmSync(parent, { recursive: true, force: true })
    })

    const untilIt = async (wanted: (outcome: string) => boolean, key: string): Promise<string> => {
      let outcome: string
      do {
        outcome = await callers.tryEncrypt(far, key)
        await turn()
      } while (!wanted(outcome))
      return outcome
    }

    test('comes back too when the server has forgotten its connections meanwhile', async () => {
      const key = await callers.createKey(far)
      network.cut('both ways')
      await untilIt((outcome) => outcome === 'CATALOG_UNAVAILABLE', key)
      // The ends of its connections are lost on the way.
      await postgres.stop()
      await postgres.start()
      network.heal('both ways')
      expect(await untilIt((outcome) => outcome !== 'CATALOG_UNAVAILABLE', key)).toBe('sealed')
      expect(await callers.encrypt(near, await callers.createKey(far))).toBe('sealed')
    })

    test('ends when it is told to, whatever its connections wait for', async () => {
      const key = await callers.createKey(far)
      network.cut('both ways')
      await untilIt((outcome) => outcome === 'CATALOG_UNAVAILABLE', key)
      const { code, stderr } = await far.stop('SIGTERM')
      network.heal('both ways')
      expect(code, stderr).toBe(0)
      far = await startFar()
      expect(await callers.encrypt(far, key)).toBe('sealed')
    })

    describe.each(CUTS)('%s', (cut) => {
      test('seals nothing under a key whose disabling was answered, and comes back knowing it', async () => {
        const { createKey, change, tryChange, encrypt, load } = callers
        const [key, other] = [await createKey(near), await createKey(far)]
        const disabledBefore = await createKey(far)
        for (const one of [key, other, disabledBefore]) {
          expect(await encrypt(far, one)).toBe('sealed')
        }
        // Acknowledged by the one that will be cut off.
        expect((await change(far, disabledBefore, 'disable')).code).toBeUndefined()
        const calls = load([far], key)
        await calls.until(0, 20, 'sealed')
        network.cut(cut)
        expect((await change(near, key, 'disable')).code).toBeUndefined()
        const disabled = calls.nextPhase()
        await calls.until(disabled, 20)
        expect(await untilIt((outcome) => outcome !== 'sealed', other)).toBe('CATALOG_UNAVAILABLE')
        expect((await fetch(`${far.ready.url}/readyz`)).status).toBe(503)
        // What it cannot know to be made is not answered as made.
        expect((await tryChange(far, other, 'disable')).code).toBe('CATALOG_UNAVAILABLE')
        network.heal(cut)
        await untilIt((outcome) => outcome !== 'CATALOG_UNAVAILABLE', key)
        const healed = calls.nextPhase()
        await calls.until(healed, 20, 'KMS_KEY_DISABLED')
        await calls.stop()
        for (const outcome of Object.keys(calls.outcomes(0))) {
          expect(['sealed', 'CATALOG_UNAVAILABLE']).toContain(outcome)
        }
        expect(Object.keys(calls.outcomes(disabled))).not.toContain('sealed')
        expect(Object.keys(calls.outcomes(healed))).not.toContain('sealed')
        for (const node of [near, far]) {
          expect(await encrypt(node, disabledBefore)).toBe('KMS_KEY_DISABLED')
        }
        // Both change and follow as before.
        expect((await change(far, key, 'enable')).code).toBeUndefined()
        expect(await encrypt(near, key)).toBe('sealed')
        expect((await change(near, key, 'disable')).code).toBeUndefined()
        expect(await encrypt(far, key)).toBe('KMS_KEY_DISABLED')
      })
    })
  })
