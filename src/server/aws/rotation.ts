/** Rotation of KMS keys: by a period, on demand, and what has been rotated. */
import {
  LIST_PAGE_MAX,
  ROTATION_PERIOD_DAYS_DEFAULT,
  ROTATION_PERIOD_DAYS_MAX,
  ROTATION_PERIOD_DAYS_MIN,
} from '../../limits.ts'
import type { KmsKey } from '../../kms/kms-key.ts'
import { rotationScheduleOf, type RotationEntry } from '../../kms/rotations.ts'
import { KEY_ID, paging } from './members.ts'
import { keyed, seconds, type Operation, type OutputValue } from './operation.ts'
import { oneOf, optional, whole } from './shapes.ts'

const periodDays = whole(ROTATION_PERIOD_DAYS_MIN, ROTATION_PERIOD_DAYS_MAX)

export const ROTATION_OPERATIONS: readonly Operation[] = [
  keyed(
    'EnableKeyRotation',
    { ...KEY_ID, RotationPeriodInDays: optional(periodDays) },
    async (call, input, { arn }) => {
      await call.engine.kms.rotations.enable(arn, input.RotationPeriodInDays)
      return {}
    },
    {
      attributes: ({ RotationPeriodInDays: days = ROTATION_PERIOD_DAYS_DEFAULT }) => ({
        parameters: { 'kms:RotationPeriodInDays': days },
      }),
    },
  ),
  keyed('DisableKeyRotation', { ...KEY_ID }, async (call, _input, { arn }) => {
    await call.engine.kms.rotations.disable(arn)
    return {}
  }),
  // OnDemandRotationStartDate tells of one in progress; ours is over when it is answered.
  keyed('GetKeyRotationStatus', { ...KEY_ID }, async (_call, _input, kmsKey) => {
    const schedule = rotationScheduleOf(kmsKey)
    return {
      KeyRotationEnabled: schedule !== undefined,
      KeyId: kmsKey.keyId,
      RotationPeriodInDays: schedule?.periodDays,
      NextRotationDate: schedule === undefined ? undefined : seconds(schedule.nextAtMs),
    }
  }),
  keyed('RotateKeyOnDemand', { ...KEY_ID }, async (call, _input, { arn, keyId }) => {
    await call.engine.kms.rotations.rotateOnDemand(arn)
    return { KeyId: keyId }
  }),
  keyed(
    'ListKeyRotations',
    {
      ...KEY_ID,
      IncludeKeyMaterial: optional(oneOf('ALL_KEY_MATERIAL', 'ROTATIONS_ONLY')),
      ...paging(LIST_PAGE_MAX),
    },
    async (call, input, kmsKey) => {
      const { items, nextMarker } = await call.engine.kms.rotations.list(kmsKey.arn, {
        limit: input.Limit,
        marker: input.Marker,
        allMaterial: input.IncludeKeyMaterial === 'ALL_KEY_MATERIAL',
      })
      return {
        Rotations: items.map((entry) => rotationOf(kmsKey, entry)),
        Truncated: nextMarker !== undefined,
        NextMarker: nextMarker,
      }
    },
  ),
]

/** RotationsListEntry of the API reference. */
function rotationOf({ keyId }: KmsKey, entry: RotationEntry): OutputValue {
  const { rotation, imported } = entry
  return {
    KeyId: keyId,
    KeyMaterialId: entry.keyMaterialId,
    KeyMaterialState: entry.state,
    RotationType: rotation?.type,
    RotationDate: rotation === undefined ? undefined : seconds(rotation.atMs),
    ...(imported === undefined ? {} : importOf(imported)),
  }
}

function importOf({ present, validToMs, description }: NonNullable<RotationEntry['imported']>) {
  const expires = validToMs !== undefined
  return {
    KeyMaterialDescription: description,
    ImportState: present ? 'IMPORTED' : 'PENDING_IMPORT',
    ExpirationModel: expires ? 'KEY_MATERIAL_EXPIRES' : 'KEY_MATERIAL_DOES_NOT_EXPIRE',
    ValidTo: expires ? seconds(validToMs) : undefined,
  }
}
