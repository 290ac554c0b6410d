/** The AWS command line, driven through the life of a KMS key by test/clients/run. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

import { inDirectory, ROOT, run } from '../cli/command.ts'

const RUN = join(ROOT, 'test/clients/run')

describe('the AWS command line', () => {
  const title = 'finds in keyfold the AWS KMS that it knows'
  const aws = spawnSync('aws', ['--version']).error === undefined
  if (!aws && process.env['CI'] === undefined) {
    test.skip(`${title} (no aws: install the package awscli)`, () => undefined)
    return
  }
  // Each of its fifty commands is a Python of its own.
  test(title, { timeout: 600_000 }, async () => {
    expect(aws, 'CI needs aws: install the package awscli').toBe(true)
    const ended = await run(RUN, [])
    expect(ended, ended.text + ended.stderr).toMatchObject({ code: 0, stderr: '' })
    expect(ended.text).toMatch(/\npassed\n$/)
  })
})

describe('the script that drives it', () => {
  test('names the package where there is no aws', () =>
    inDirectory(async (directory) => {
      const ended = await run('/bin/bash', [RUN], { env: { PATH: directory } })
      expect(ended).toMatchObject({ code: 1, text: '' })
      expect(ended.stderr).toMatch(/^the AWS CLI is missing: install the package awscli\n$/)
    }))

  test('says what it is for, and refuses what it does not know', async () => {
    expect(await run(RUN, ['--help'])).toMatchObject({
      code: 0,
      stderr: '',
      text: expect.stringContaining('awscli') as string,
    })
    expect(await run(RUN, ['--verbose'])).toMatchObject({ code: 2, text: '' })
  })
})
