/** Deletion of KMS keys, and what is asked before one: when the key was last used. */
import {
  PENDING_WINDOW_DAYS_DEFAULT,
  PENDING_WINDOW_DAYS_MAX,
  PENDING_WINDOW_DAYS_MIN,
} from '../../limits.ts'
import { KEY_ID } from './members.ts'
import { keyed, seconds, type Operation } from './operation.ts'
import { optional, whole } from './shapes.ts'

const windowDays = whole(PENDING_WINDOW_DAYS_MIN, PENDING_WINDOW_DAYS_MAX)

export const DELETION_OPERATIONS: readonly Operation[] = [
  keyed(
    'ScheduleKeyDeletion',
    { ...KEY_ID, PendingWindowInDays: optional(windowDays) },
    async (call, input, { arn }) => {
      const { deletions } = call.engine.kms
      const { state, deletionAtMs, pendingWindowDays } = await deletions.schedule(
        arn,
        input.PendingWindowInDays,
      )
      return {
        KeyId: arn,
        // A primary key does not know it before its last replica is gone.
        DeletionDate: deletionAtMs === undefined ? undefined : seconds(deletionAtMs),
        KeyState: state,
        PendingWindowInDays: pendingWindowDays,
      }
    },
    {
      attributes: ({ PendingWindowInDays: days = PENDING_WINDOW_DAYS_DEFAULT }) => ({
        parameters: { 'kms:ScheduleKeyDeletionPendingWindowInDays': days },
      }),
    },
  ),
  keyed('CancelKeyDeletion', { ...KEY_ID }, async (call, _input, { arn }) => {
    await call.engine.kms.deletions.cancel(arn)
    return { KeyId: arn }
  }),
  keyed('GetKeyLastUsage', { ...KEY_ID }, async (call, _input, kmsKey) => {
    const { last, trackedSinceMs } = await call.engine.kms.lastUse(kmsKey)
    return {
      KeyId: kmsKey.keyId,
      KeyLastUsage:
        last === undefined
          ? {}
          : { Operation: last.lastOperation, Timestamp: seconds(last.lastUsedAtMs) },
      TrackingStartDate: seconds(trackedSinceMs),
      KeyCreationDate: seconds(kmsKey.createdAtMs),
    }
  }),
]
