/** The way to the catalog: TLS that checks who answers, and passwords, with a real server; and what is said of failures. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { openCatalog, type Catalog } from '../../dist/catalog/catalog.js'
import { loadConfig } from '../../dist/config.js'
import { makeCertificates } from '../certificates.ts'
import { describeWithPostgres } from '../catalog/postgres.ts'
import { keyfold } from '../cli/command.ts'

/** In the certificate, and not in it. */
const NAMED = '127.77.0.1'
const UNNAMED = '127.77.0.2'
const PASSWORD = 'right horse / battery : staple'
const WRONG = 'wrong horse'

describeWithPostgres('a catalog beyond this machine', (postgres) => {
  let directory: string
  let catalog: string

  const file = (name: string): string => join(directory, name)
  const write = (name: string, text: string): string => {
    writeFileSync(file(name), text, { mode: 0o600 })
    return file(name)
  }
  const listen = (letIn: readonly string[], tls: boolean): Promise<void> => {
    postgres.listen({
      addresses: [NAMED, UNNAMED],
      letIn,
      ...(tls ? { tls: { certFile: file('server.crt'), keyFile: file('server.key') } } : {}),
    })
    return postgres.start()
  }

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'keyfold-connection-'))
    makeCertificates(directory, 'ca', 'server')
    makeCertificates(directory, 'other', 'nobody')
    chmodSync(file('server.key'), 0o600)
    await postgres.stop()
    await listen(['hostssl all all 127.0.0.0/8 scram-sha-256'], true)
    catalog = await postgres.createDatabase()
    await postgres.query(catalog, `alter role keyfold password '${PASSWORD}'`)
    write('password', `${PASSWORD}\n`)
  })
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  const urlOf = (
    address = NAMED,
    parameters = `sslmode=verify-full&sslrootcert=${file('ca.crt')}`,
  ): string => `${postgres.urlAt(address, catalog)}?${parameters}`
  const open = (url = urlOf(), catalogPasswordFile = file('password')): Promise<Catalog> =>
    openCatalog({
      dataDirectory: '/nowhere',
      catalog: loadConfig({ flags: { catalog: url, catalogPasswordFile } }).catalog,
      region: 'eu-west-1',
      account: '111122223333',
    })
  const reasonOf = async (opening: Promise<Catalog>): Promise<string> => {
    const outcome = await opening.then(
      async (opened) => opened.close(),
      (error: unknown) => error as Error & { readonly code: string },
    )
    if (outcome === undefined) throw new Error('it was let in')
    expect(outcome.code).toBe('CATALOG_UNAVAILABLE')
    return outcome.message
  }

  test('is reached over TLS, with a password, on every connection', async () => {
    const opened = await open()
    await Promise.all([opened.change(async () => undefined), opened.change(async () => undefined)])
    const rows = await postgres.query(
      catalog,
      `select ssl, version from pg_stat_ssl join pg_stat_activity using (pid)
         where application_name = 'keyfold' and datname = current_database()`,
    )
    expect(rows.length).toBeGreaterThan(0)
    for (const { ssl, version } of rows) {
      expect(ssl).toBe(true)
      expect(version).toMatch(/^TLSv1\.[23]$/)
    }
    await opened.close()
  })

  test('is not spoken to where its certificate is of another CA, or of another name', async () => {
    const otherCa = urlOf(NAMED, `sslmode=verify-full&sslrootcert=${file('other.crt')}`)
    expect(await reasonOf(open(otherCa))).toMatch(/certificate/)
    // Whom Node trusts has not signed it either.
    expect(await reasonOf(open(urlOf(NAMED, 'sslmode=verify-full')))).toMatch(/certificate/)
    expect(await reasonOf(open(urlOf(UNNAMED)))).toContain('altnames')
  })

  test('is not spoken to without TLS where it wants TLS', async () => {
    expect(await reasonOf(open(urlOf(NAMED, 'sslmode=disable')))).toContain('no encryption')
  })

  test.each(['allow', 'prefer', 'require', 'verify-ca'])(
    'takes no mode that checks nobody: %s',
    (mode) => {
      expect(() => loadConfig({ flags: { catalog: urlOf(NAMED, `sslmode=${mode}`) } })).toThrow(
        'sslmode: verify-full or disable is needed',
      )
    },
  )

  test('that does not take the password is told by the names of the settings, and no password', async () => {
    const wrong = write('wrong', WRONG)
    const empty = write('empty', '')
    for (const passwordFile of [wrong, empty]) {
      const reason = await reasonOf(open(urlOf(), passwordFile))
      expect(reason).toContain('catalogPasswordFile')
      expect(reason).not.toContain(WRONG)
    }
    expect(await reasonOf(open(urlOf(), file('missing')))).toContain(file('missing'))
    const inUrl = urlOf().replace('keyfold@', `keyfold:${encodeURIComponent(WRONG)}@`)
    for (const command of ['serve', 'init']) {
      const { code, text, stderr } = await keyfold([command, '--data', file(command)], {
        env: { KEYFOLD_CATALOG: inUrl },
      })
      expect(code).toBe(1)
      expect(stderr).toContain('catalogPasswordFile')
      expect(stderr).toContain('password authentication failed')
      for (const secret of [WRONG, encodeURIComponent(WRONG)]) {
        expect(text + stderr).not.toContain(secret)
      }
    }
  })

  test('is reached with the password of the moment: one that is changed needs no restart', async () => {
    const opened = await open()
    const next = 'another horse'
    await postgres.query(catalog, `alter role keyfold password '${next}'`)
    write('password', next)
    await postgres.query(
      catalog,
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'keyfold'`,
    )
    // What a terminated connection was doing fails; the next is another one.
    while ((await opened.change(async () => 'made').catch(() => 'lost')) !== 'made');
    await opened.close()
    await postgres.query(catalog, `alter role keyfold password '${PASSWORD}'`)
    write('password', PASSWORD)
  })

  test('is not spoken to where TLS is wanted and the server has none', async () => {
    await postgres.stop()
    await listen(['host all all 127.0.0.0/8 trust'], false)
    expect(await reasonOf(open())).toContain('does not support SSL')
  })
})
