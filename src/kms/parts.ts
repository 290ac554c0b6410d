/** What every part of the control plane works with. */
import type { Catalog } from '../catalog/catalog.ts'
import { KeyfoldError } from '../errors.ts'
import { LIST_PAGE_DEFAULT, LIST_PAGE_MAX } from '../limits.ts'
import type { KeyStores } from './key-stores.ts'
import type { KeyRegistry } from './registry.ts'

export interface KmsParts {
  readonly catalog: Catalog
  readonly registry: KeyRegistry
  readonly keyStores: KeyStores
  /** Wall clock: what waiting periods and expiries are measured by. */
  nowMs(): number
}

export interface Page<T> {
  readonly items: readonly T[]
  readonly nextMarker: string | undefined
}

export interface PageRequest {
  readonly limit?: number | undefined
  readonly marker?: string | undefined
  /** The catalog's own where absent. */
  readonly region?: string | undefined
}

/** Rows were asked for one beyond the limit: whether there is that one tells whether there is more. */
export function pageOf<T>(
  rows: readonly T[],
  limit: number,
  markerOf: (row: T) => string,
): Page<T> {
  const items = rows.slice(0, limit)
  const last = items.at(-1)
  const more = rows.length > limit && last !== undefined
  return { items, nextMarker: more ? markerOf(last) : undefined }
}

export function pageLimit(limit: number = LIST_PAGE_DEFAULT): number {
  if (!Number.isInteger(limit) || limit < 1 || limit > LIST_PAGE_MAX) {
    throw new KeyfoldError('REQUEST_MALFORMED', `limit: 1 to ${LIST_PAGE_MAX}`)
  }
  return limit
}

/** The catalog's own region is not written into its rows. */
export function regionColumn({ catalog }: KmsParts, region: string | undefined): string | null {
  return region === undefined || region === catalog.region ? null : region
}
