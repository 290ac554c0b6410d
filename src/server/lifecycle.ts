/** The life of a key over the API: its rotation and its end. */
import {
  authorizeKey,
  describe,
  optionalNumber,
  pageRequest,
  type ManagementHandler,
} from './management.ts'

export const enableRotation: ManagementHandler = async (request) => {
  const { arn } = await authorizeKey(request, 'kms:EnableKeyRotation', request.name)
  const periodDays = optionalNumber(request.fields, 'periodDays')
  return describe(await request.engine.kms.rotations.enable(arn, periodDays))
}

export const disableRotation: ManagementHandler = async (request) => {
  const { arn } = await authorizeKey(request, 'kms:DisableKeyRotation', request.name)
  return describe(await request.engine.kms.rotations.disable(arn))
}

export const listRotations: ManagementHandler = async (request) => {
  const { engine, name, query } = request
  const { arn } = await authorizeKey(request, 'kms:ListKeyRotations', name)
  const { items, nextMarker } = await engine.kms.rotations.list(arn, pageRequest(query))
  return {
    rotations: items.map(({ version, keyMaterialId, state, rotation }) => ({
      version,
      keyMaterialId,
      state,
      type: rotation?.type,
      rotatedAtMs: rotation?.atMs,
    })),
    nextMarker,
  }
}

export const scheduleDeletion: ManagementHandler = async (request) => {
  const { arn } = await authorizeKey(request, 'kms:ScheduleKeyDeletion', request.name)
  const windowDays = optionalNumber(request.fields, 'pendingWindowDays')
  return describe(await request.engine.kms.deletions.schedule(arn, windowDays))
}

export const cancelDeletion: ManagementHandler = async (request) => {
  const { arn } = await authorizeKey(request, 'kms:CancelKeyDeletion', request.name)
  return describe(await request.engine.kms.deletions.cancel(arn))
}
