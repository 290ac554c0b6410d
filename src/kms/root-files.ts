/**
 * A node's copies of what a shared catalog keeps beside the root key (src/catalog/root-files.ts). The catalog is right:
 * copies of what stood there before are replaced, and those of another catalog refused.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import type { Catalog } from '../catalog/catalog.ts'
import {
  NEXT,
  readRootFiles,
  ROOT_CHECK,
  ROOT_FILES,
  ROOT_PREVIOUS,
} from '../catalog/root-files.ts'
import { KeyfoldError } from '../errors.ts'
import { eraseFile, replaceFile } from '../key-stores/secret-files.ts'

/** Nothing depends on these but a rotation that the catalog knows of. */
const OF_ROTATION: readonly string[] = [...ROOT_FILES.map((name) => name + NEXT), ROOT_PREVIOUS]

/** Errors: CONFIG_INVALID (the data directory has another catalog's). */
export async function pullRootFiles(
  { db }: Pick<Catalog, 'db'>,
  dataDirectory: string,
): Promise<void> {
  const { contents, wasThere } = await readRootFiles(db)
  mkdirSync(dataDirectory, { recursive: true, mode: 0o700 })
  // All of them before anything is changed.
  const copies = localRootFiles(dataDirectory)
  let isOfThis = false
  for (const [name, copied] of copies) {
    const content = contents.get(name)
    const isKnown = copied === content || wasThere(copied)
    // ROOT_CHECK is the first of them, and says of which catalog the others are.
    if (name === ROOT_CHECK) isOfThis = isKnown
    if (content === undefined || isKnown) continue
    const what = isOfThis
      ? 'is of this machine only, and the catalog has another: move it away'
      : 'belongs to another catalog'
    throw new KeyfoldError('CONFIG_INVALID', `${join(dataDirectory, name)} ${what}`)
  }
  for (const name of ROOT_FILES) {
    const [copied, content] = [copies.get(name), contents.get(name)]
    const isGone = content === undefined && copied !== undefined && wasThere(copied)
    if (isGone) eraseFile(join(dataDirectory, name))
    else copy(dataDirectory, name, content)
  }
  for (const name of OF_ROTATION) {
    const content = contents.get(name)
    // Of a catalog that was not initialised there is nothing that could be right.
    if (content === undefined && contents.size > 0) eraseFile(join(dataDirectory, name))
    else copy(dataDirectory, name, content)
  }
}

function copy(dataDirectory: string, name: string, content: string | undefined): void {
  if (content === undefined) return
  const file = join(dataDirectory, name)
  if (!existsSync(file)) writeFileSync(file, content, { mode: 0o600, flag: 'wx', flush: true })
  else if (readFileSync(file, 'utf8') !== content) replaceFile(file, content)
}

/** Those of the data directory that have this ending, by their names. */
export function localRootFiles(dataDirectory: string, ending = ''): ReadonlyMap<string, string> {
  const contents = new Map<string, string>()
  for (const name of ROOT_FILES) {
    const file = join(dataDirectory, name + ending)
    if (existsSync(file)) contents.set(name + ending, readFileSync(file, 'utf8'))
  }
  return contents
}
