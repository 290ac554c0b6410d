/** Lists that come in pages, read to their end. */
import type { Keyfold } from '../client/keyfold.ts'
import type { PlainValue } from '../format/msgpack.ts'

const PAGE = 1_000

type Row = Readonly<Record<string, PlainValue>>

export async function listPages(
  keyfold: Keyfold,
  path: string,
  name: string,
  query: Readonly<Record<string, string>> = {},
): Promise<readonly Row[]> {
  const rows: Row[] = []
  let marker: string | undefined
  do {
    const parameters = new URLSearchParams({ ...query, limit: String(PAGE) })
    if (marker !== undefined) parameters.set('marker', marker)
    const page = (await keyfold.manage('GET', `${path}?${parameters}`)) as Row
    rows.push(...(page[name] as readonly Row[]))
    marker = page['nextMarker'] as string | undefined
  } while (marker !== undefined)
  return rows
}
