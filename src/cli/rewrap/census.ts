/** `keyfold rewrap --count`: what of an input hangs on which KMS key and version of its material. Nothing is changed. */
import type { Keyfold } from '../../client/keyfold.ts'
import { KeyfoldError } from '../../errors.ts'
import { inspectCiphertext, type CiphertextForm } from '../../format/inspect.ts'
import { fromBase64, type RecordFormat, type Splitter } from '../records.ts'
import type { Target } from './movers.ts'

export interface CensusRow {
  /** '' of detached messages and of what is no ciphertext. */
  readonly kmsKeyId: string
  readonly materialVersion: number | undefined
  readonly ciphertexts: number
  readonly messages: number
  readonly forms: Readonly<Partial<Record<CiphertextForm | 'not a ciphertext', number>>>
}

type CountedRow = { -readonly [field in keyof CensusRow]: CensusRow[field] } & {
  forms: Partial<Record<CiphertextForm | 'not a ciphertext', number>>
}

export async function countCiphertexts(
  source: AsyncIterable<Buffer>,
  splitter: Splitter,
  format: RecordFormat,
): Promise<readonly CensusRow[]> {
  const rows = new Map<string, CountedRow>()
  const count = (record: Buffer): void => {
    const inspection = inspectedOrNothing(record, format)
    const { kmsKeyId = '', materialVersion } = inspection?.wrapping ?? {}
    const form = inspection?.form ?? 'not a ciphertext'
    const name = `${kmsKeyId} ${materialVersion ?? form}`
    let row = rows.get(name)
    if (row === undefined) {
      row = { kmsKeyId, materialVersion, ciphertexts: 0, messages: 0, forms: {} }
      rows.set(name, row)
    }
    row.ciphertexts++
    row.messages += inspection?.messages ?? 0
    row.forms[form] = (row.forms[form] ?? 0) + 1
  }
  for await (const chunk of source) splitter.push(chunk, count)
  splitter.end(count)
  return [...rows.values()].sort((a, b) => b.ciphertexts - a.ciphertexts)
}

function inspectedOrNothing(record: Buffer, format: RecordFormat) {
  try {
    return inspectCiphertext(format === 'lines' ? fromBase64(record) : record)
  } catch (error) {
    if (!(error instanceof KeyfoldError)) throw error
    return undefined
  }
}

/** What the server knows of the key that 16 bytes name; undefined where it knows none, or does not say. */
export async function describeNamed(
  keyfold: Pick<Keyfold, 'manage'>,
  kmsKeyId: string,
): Promise<(Target & { readonly state: string }) | undefined> {
  for (const name of [kmsKeyId, `mrk-${kmsKeyId.replaceAll('-', '')}`]) {
    try {
      return await describe(keyfold, name)
    } catch (error) {
      const code = error instanceof KeyfoldError ? error.code : undefined
      if (code !== 'KMS_KEY_NOT_FOUND' && code !== 'ACCESS_DENIED') throw error
    }
  }
  return undefined
}

export async function describe(
  keyfold: Pick<Keyfold, 'manage'>,
  key: string,
): Promise<Target & { readonly state: string }> {
  const answer = await keyfold.manage('GET', `/v1/keys/${encodeURIComponent(key)}`)
  return answer as unknown as Target & { readonly state: string }
}
