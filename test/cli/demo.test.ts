/** `npm run demo -- FILE`, as the README says it. */
import { once } from 'node:events'
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

import { inDirectory, keyfold, MAIN, ROOT, run, start } from './command.ts'

const LINES = ['one', '', 'zwölf', 'x'.repeat(200)]

describe('the demo', () => {
  test.each(['auto', 'node'])('does on a file what it says, KEYFOLD_CRYPTO=%s', (crypto) =>
    inDirectory(async (directory) => {
      const file = join(directory, 'rows.txt')
      writeFileSync(file, LINES.join('\n'))
      const env = { KEYFOLD_CRYPTO: crypto, TMPDIR: directory }
      const { code, text, stderr } = await run('npm', ['run', 'demo', '--', file], {
        env,
        cwd: ROOT,
      })
      expect(stderr).not.toMatch(/Error|"level":[45]0/)
      expect(code).toBe(0)
      const bytes = 50_000 * Buffer.concat(LINES.map((line) => Buffer.from(line))).length
      expect(text).toContain(`${file}: 200,000 messages, ${(bytes / 1e6).toFixed(1)} MB`)
      expect(text).toMatch(crypto === 'node' ? /AES-256-GCM by node\n/ : /AES-256-GCM by \w+\n/)
      for (const step of ['encrypt', 'decrypt', 're-wrap after a rotation']) {
        expect(text).toMatch(new RegExp(`^ +${step}: [\\d,]+ messages/s, [\\d.]+ MB/s$`, 'm'))
      }
      expect(text).toMatch(
        /every byte is back\n.*one flipped bit is refused, and that message alone/,
      )
      expect(text).toMatch(/what was re-wrapped opens\n.*what was encrypted afresh opens\n/)
      const counted = (what: string): number =>
        Number(new RegExp(`${what}: ([\\d,]+)$`, 'm').exec(text)?.[1]?.replaceAll(',', ''))
      // One message key before the rotation, one behind it; the other batches were sealed from the cache.
      expect(counted('made by the key store')).toBeGreaterThanOrEqual(2)
      expect(counted('opened by the key store')).toBeGreaterThan(0)
      expect(counted('batches sealed from the cache')).toBeGreaterThan(40)
      expect(counted('key entries opened from the cache')).toBeGreaterThan(40)
      expect(text).toMatch(/all as it must be\n$/)
      expect(readdirSync(directory)).toEqual(['rows.txt'])
    }),
  )

  test('takes its server with it when it is killed', () =>
    inDirectory(async (directory) => {
      const { child, ended } = start(process.execPath, [MAIN, 'demo'], {
        env: { TMPDIR: directory },
      })
      let said = ''
      child.stdout?.on('data', (bytes: Buffer) => (said += bytes.toString()))
      while (!said.includes('a server at')) await once(child.stdout as never, 'data')
      const url = /http:\S+\d/.exec(said)?.[0] ?? ''
      expect((await fetch(`${url}/healthz`)).status).toBe(200)
      child.kill('SIGTERM')
      expect((await ended).code).toBe(1)
      await expect(fetch(`${url}/healthz`)).rejects.toThrow()
    }))

  test('without a file to read says so', async () => {
    const ended = await keyfold(['demo', '/nonexistent'])
    expect(ended).toMatchObject({ code: 1, text: '' })
    expect(ended.stderr).toMatch(/^keyfold: ENOENT: [^\n]+\n$/)
  })
})
