// A PostgreSQL of the bench's own, for nodes that share a catalog: Debian's, on a socket in a directory that goes with it.
import { execFileSync, spawn } from 'node:child_process'
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const VERSIONS = '/usr/lib/postgresql'
/** Debian's `nobody`: PostgreSQL does not run as root. */
const NOBODY = 65_534

/** undefined where it is not installed. */
export function findPostgres() {
  if (!existsSync(VERSIONS)) return undefined
  return readdirSync(VERSIONS)
    .map((version) => join(VERSIONS, version, 'bin'))
    .filter((directory) => existsSync(join(directory, 'initdb')))
    .sort()
    .at(-1)
}

/** `url` is what `--catalog` takes. */
export async function startPostgres() {
  const programs = findPostgres()
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-bench-pg-'))
  const owner = process.getuid() === 0 ? { uid: NOBODY, gid: NOBODY } : {}
  if (owner.uid !== undefined) chownSync(directory, NOBODY, NOBODY)
  const cluster = join(directory, 'cluster')
  execFileSync(
    join(programs, 'initdb'),
    ['--auth=trust', '--username=keyfold', '--encoding=UTF8', '--locale=C.UTF-8', cluster],
    { ...owner, stdio: 'ignore', cwd: directory },
  )
  const server = spawn(
    join(programs, 'postgres'),
    ['-D', cluster, '-k', directory, '-c', 'listen_addresses='],
    { ...owner, stdio: ['ignore', 'ignore', 'pipe'], cwd: directory },
  )
  await new Promise((resolve, reject) => {
    let said = ''
    server.stderr.on('data', (bytes) => {
      said += bytes
      if (said.includes('ready to accept connections')) resolve()
    })
    server.once('exit', () => reject(new Error(said)))
  })
  return {
    // The database of every cluster: nothing else is in this one.
    url: `postgres://keyfold@localhost/postgres?host=${directory}`,
    stop: async () => {
      const ended = new Promise((resolve) => server.once('exit', resolve))
      // Ends every session at once.
      server.kill('SIGINT')
      await ended
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
