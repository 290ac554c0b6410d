/** What travels between the main thread and the audit worker. */
import type { EventGroup } from './event.ts'

export interface WorkerStart {
  readonly directory: string
  readonly region: string
  readonly fileBytesMax: number
  /** Whether lines are made by the addon, where there is one. */
  readonly native: boolean
  /** Of a worker that died: its chain and the last line that it told of. */
  readonly lost: { readonly chain: string; readonly sequence: number } | undefined
}

export type ToWorker =
  { readonly kind: 'group'; readonly group: EventGroup } | { readonly kind: 'close' }

export type FromWorker =
  | {
      readonly kind: 'ready'
      readonly chain: string
      readonly sequence: number
      /** Records of the group that the lost worker had in its hands and that are on the disk. */
      readonly recovered: number
    }
  | { readonly kind: 'durable'; readonly sequence: number; readonly syncSeconds: number }
  /** The group is tried again until it succeeds. */
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'closed' }
