/**
 * Whether an audit directory is what was written. What it tells: that within each chain no record was changed, removed
 * or moved, up to where the chain ends; and, for each chain that a later one tells of, that it still reaches as far as it
 * did then. What nothing inside the directory can tell: that the end of the newest chain was removed, or that everything
 * was written anew by somebody with a program like this one. Keep the hash that verification prints, or a copy of
 * the files, where the server cannot write.
 */
import { listChains } from './files.ts'
import { scanChain, type ChainScan, type Defect, type ScannedLine } from './scan.ts'
import { decodeHeader, decodeLine, type ChainEnd } from './record.ts'
import { readTokens, type AuditFile } from './files.ts'

export interface ChainReport extends ChainScan {
  readonly chain: string
  readonly files: number
}

/** One report a chain, in the order in which they began; chains that are told of and are not there among them. */
export function* verifyDirectory(directory: string): Generator<ChainReport> {
  const chains = listChains(directory)
  const told = readReferences(chains)
  for (const chain of [...new Set([...chains.keys(), ...told.keys()])].sort()) {
    const files = chains.get(chain)
    yield files === undefined
      ? missingChain(chain, told.get(chain) ?? [])
      : verifyChain(chain, files, told.get(chain) ?? [])
  }
}

interface Reference extends ChainEnd {
  /** The chain that tells it. */
  readonly by: string
}

type References = ReadonlyMap<string, readonly Reference[]>

/** What the first lines of chains say about others, if they are whole: whether they were changed their own scan tells. */
function readReferences(chains: ReadonlyMap<string, readonly AuditFile[]>): References {
  const references = new Map<string, Reference[]>()
  for (const [by, [first]] of chains) {
    const [token] = first === undefined ? [] : readTokens(first.path)
    if (token?.kind !== 'line' || decodeLine(token.bytes) === undefined) continue
    for (const end of decodeHeader(token.bytes)?.olderChains ?? []) {
      references.set(end.chain, [...(references.get(end.chain) ?? []), { ...end, by }])
    }
  }
  return references
}

function verifyChain(
  chain: string,
  files: readonly AuditFile[],
  references: readonly Reference[],
): ChainReport {
  let line = 0
  let file = ''
  let broken: Defect | undefined
  const scan = scanChain(files, (found: ScannedLine) => {
    if (found.header !== undefined) line = 0
    line++
    file = files[(found.header?.file ?? 0) - 1]?.path ?? file
    const reference = references.find(({ sequence }) => sequence === found.sequence)
    if (reference === undefined || reference.hash === found.hash) return
    broken ??= {
      file,
      line,
      sequence: found.sequence,
      problem: `the record is not the one that chain ${reference.by} saw`,
    }
  })
  const defect = broken ?? scan.defect ?? shorterThanTold(scan, files, references)
  return { chain, files: files.length, ...scan, defect }
}

function shorterThanTold(
  { end }: ChainScan,
  files: readonly AuditFile[],
  references: readonly Reference[],
): Defect | undefined {
  const beyond = references.find(({ sequence }) => sequence > end.sequence)
  if (beyond === undefined) return undefined
  return {
    file: files.at(-1)?.path ?? '',
    line: 0,
    sequence: end.sequence + 1,
    problem: `records are missing: chain ${beyond.by} saw this one reach ${beyond.sequence}`,
  }
}

function missingChain(chain: string, references: readonly Reference[]): ChainReport {
  const problem = `all files are missing; chain ${references[0]?.by ?? ''} tells of them`
  return {
    chain,
    files: 0,
    records: 0,
    end: { file: 0, sequence: 0, hash: '' },
    state: 'cut off',
    defect: { file: chain, line: 0, sequence: 1, problem },
  }
}
