/**
 * The rules of the house that a program can check: the arrows between rooms, one file for each third-party
 * package, process.env in one place, words that are not names, files that nobody imports.
 */
import { readFileSync, readdirSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { describe, expect, test } from 'vitest'

const ROOT = join(import.meta.dirname, '..')
const SOURCE = join(ROOT, 'src')

/** Room → rooms it may import from, besides format, errors and limits, which everyone may. */
const ARROWS: Record<string, readonly string[]> = {
  format: [],
  errors: [],
  limits: [],
  config: [],
  crypto: ['config'],
  catalog: ['config'],
  'key-stores': ['crypto', 'config'],
  audit: ['config', 'crypto'],
  kms: ['catalog', 'key-stores', 'crypto', 'config'],
  'data-keys': ['key-stores', 'crypto', 'kms'],
  pool: ['crypto'],
  envelope: ['pool', 'data-keys', 'key-stores', 'crypto', 'kms'],
  engine: [
    'config',
    'crypto',
    'catalog',
    'key-stores',
    'kms',
    'data-keys',
    'pool',
    'envelope',
    'audit',
  ],
  init: ['config', 'crypto', 'catalog', 'key-stores', 'kms'],
  'root-key': ['config', 'crypto', 'catalog', 'key-stores', 'kms'],
  server: [
    'engine',
    'config',
    'envelope',
    'data-keys',
    'kms',
    'pool',
    'crypto',
    'audit',
    'streams',
    'client',
  ],
  client: [],
  streams: ['client', 'crypto'],
  cli: ['server', 'client', 'engine', 'config', 'init', 'root-key', 'audit', 'streams'],
  index: ['client', 'streams', 'in-process'],
  'in-process': [
    'client',
    'engine',
    'config',
    'crypto',
    'kms',
    'data-keys',
    'pool',
    'envelope',
    'audit',
  ],
}

/** `kms → envelope` for types only is still an arrow; these few are types that two rooms share by design. */
const EVERYONE = ['format', 'errors', 'limits']

interface SourceFile {
  readonly path: string
  readonly room: string
  readonly text: string
  /** Paths from src/ for our own files, package names for others. */
  readonly imports: readonly string[]
}

const files: readonly SourceFile[] = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts'))
  .map((path) => {
    const text = readFileSync(join(SOURCE, path), 'utf8')
    const specifiers = [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(
      (match) => match[1] ?? '',
    )
    const workers = [...text.matchAll(/new URL\('(\.[^']+)\.js', import\.meta\.url\)/g)].map(
      (match) => `${match[1] ?? ''}.ts`,
    )
    return {
      path,
      room: roomOf(path),
      text,
      imports: [...specifiers, ...workers].map((specifier) =>
        specifier.startsWith('.')
          ? relative(SOURCE, join(SOURCE, dirname(path), specifier))
          : specifier,
      ),
    }
  })

function roomOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.indexOf('/')) : path.replace(/\.ts$/, '')
}

const isOurs = (specifier: string): boolean => specifier.endsWith('.ts')
const isBuiltin = (specifier: string): boolean =>
  specifier.startsWith('node:') || builtinModules.includes(specifier)

describe('the house', () => {
  test('has only rooms that the plan knows', () => {
    expect(
      [...new Set(files.map((file) => file.room))].filter((room) => !(room in ARROWS)),
    ).toEqual([])
  })

  test('is crossed only along the arrows', () => {
    const wrong = files.flatMap((file) =>
      file.imports
        .filter(isOurs)
        .map(roomOf)
        .filter(
          (room) =>
            room !== file.room &&
            !EVERYONE.includes(room) &&
            !(ARROWS[file.room] ?? []).includes(room),
        )
        .map((room) => `${file.path} imports ${room}`),
    )
    expect(wrong).toEqual([])
  })

  test('imports each third-party package in one file, or one folder for the command line', () => {
    const importers = new Map<string, Set<string>>()
    for (const file of files) {
      for (const specifier of file.imports) {
        if (isOurs(specifier) || isBuiltin(specifier)) continue
        const place = file.room === 'cli' ? 'cli/' : file.path
        importers.set(specifier, (importers.get(specifier) ?? new Set()).add(place))
      }
    }
    // The catalog's query builder is the language that control-plane queries are written in.
    importers.delete('kysely')
    // A bounded map serves several caches; none of them wraps it for the others.
    importers.delete('lru-cache')
    const shared = [...importers].filter(([, places]) => places.size > 1)
    expect(shared.map(([name, places]) => `${name}: ${[...places].join(', ')}`)).toEqual([])
  })

  test('keeps no file that nobody imports', () => {
    const imported = new Set(files.flatMap((file) => file.imports))
    const entries = ['index.ts', 'cli/main.ts']
    expect(
      files
        .map((file) => file.path)
        .filter((path) => !imported.has(path) && !entries.includes(path)),
    ).toEqual([])
  })

  test('reads process.env in config.ts only', () => {
    const readers = files.filter((file) =>
      /process\.env/.test(file.text.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')),
    )
    expect(readers.map((file) => file.path)).toEqual(['config.ts'])
  })

  test('has no default exports, enums, namespaces or unfinished work', () => {
    const banned =
      /^\s*export default|^\s*(export )?(const )?enum |^\s*(export )?namespace |\b(TODO|FIXME|XXX|HACK)\b/m
    expect(files.filter((file) => banned.test(file.text)).map((file) => file.path)).toEqual([])
  })

  test('uses no word for a name that says nothing', () => {
    const banned =
      /\b(?:const|let|function|class|interface|type)\s+(data|info|manager|util|helper|blob|ctx|buf|tmp)\b/
    expect(files.filter((file) => banned.test(file.text)).map((file) => file.path)).toEqual([])
    expect(
      files
        .map((file) => file.path)
        .filter((path) => /\b(utils?|helpers?|misc|common)\b/.test(path)),
    ).toEqual([])
  })

  test('opens every file with what it is', () => {
    expect(
      files.filter((file) => !/^(#!.*\n)?\/\*\*/.test(file.text)).map((file) => file.path),
    ).toEqual([])
  })
})
