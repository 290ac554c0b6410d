/** Key material that its owner brings. */
import { KeyfoldError } from '../../errors.ts'
import type { ImportWrapping } from '../../kms/imports.ts'
import type { KmsKey } from '../../kms/kms-key.ts'
import { materialId } from '../../kms/reference.ts'
import { KEY_ID } from './members.ts'
import { keyed, seconds, type Operation } from './operation.ts'
import { binary, oneOf, optional, required, text, timestamp, type Input } from './shapes.ts'

const wrappingAlgorithm = oneOf(
  'RSAES_OAEP_SHA_1',
  'RSAES_OAEP_SHA_256',
  'RSAES_PKCS1_V1_5',
  'RSA_AES_KEY_WRAP_SHA_1',
  'RSA_AES_KEY_WRAP_SHA_256',
  'SM2PKE',
)
const wrappingKeySpec = oneOf('RSA_2048', 'RSA_3072', 'RSA_4096', 'SM2')
const expirationModel = oneOf('KEY_MATERIAL_EXPIRES', 'KEY_MATERIAL_DOES_NOT_EXPIRE')
const keyMaterialId = text({ min: 64, max: 64, pattern: /^[a-f0-9]+$/ })

const WRAPPING = {
  ...KEY_ID,
  WrappingAlgorithm: required(wrappingAlgorithm),
  WrappingKeySpec: required(wrappingKeySpec),
} as const

const IMPORT = {
  ...KEY_ID,
  ImportToken: required(binary(1, 6_144)),
  EncryptedKeyMaterial: required(binary(1, 6_144)),
  ExpirationModel: optional(expirationModel),
  ValidTo: optional(timestamp),
  ImportType: optional(oneOf('NEW_KEY_MATERIAL', 'EXISTING_KEY_MATERIAL')),
  KeyMaterialDescription: optional(text({ max: 256 })),
  KeyMaterialId: optional(keyMaterialId),
} as const

export const IMPORT_OPERATIONS: readonly Operation[] = [
  keyed(
    'GetParametersForImport',
    WRAPPING,
    async (call, input, kmsKey) => {
      const { imports } = call.engine.kms
      const turn = { principalArn: call.principal.arn, urgency: 'other' } as const
      const made = await imports.createParameters(kmsKey.arn, wrappingOf(input), turn)
      return {
        KeyId: kmsKey.arn,
        ImportToken: made.importToken,
        PublicKey: made.publicKey,
        ParametersValidTo: seconds(made.validToMs),
      }
    },
    {
      attributes: ({ WrappingAlgorithm, WrappingKeySpec }) => ({
        parameters: {
          'kms:WrappingAlgorithm': WrappingAlgorithm,
          'kms:WrappingKeySpec': WrappingKeySpec,
        },
      }),
      checkKey: (input) => void wrappingOf(input),
    },
  ),
  keyed(
    'ImportKeyMaterial',
    IMPORT,
    async (call, input, { arn }) => {
      const imported = await call.engine.kms.imports.importMaterial(arn, {
        importToken: input.ImportToken,
        wrapped: input.EncryptedKeyMaterial,
        validToMs: input.ValidTo,
        importType: input.ImportType,
        description: input.KeyMaterialDescription,
        keyMaterialId: input.KeyMaterialId,
      })
      return { KeyId: arn, KeyMaterialId: materialIdOf(imported) }
    },
    {
      attributes: ({ ExpirationModel = 'KEY_MATERIAL_EXPIRES', ValidTo }) => ({
        parameters: {
          'kms:ExpirationModel': ExpirationModel,
          ...(ValidTo === undefined ? {} : { 'kms:ValidTo': new Date(ValidTo).toISOString() }),
        },
      }),
      check: checkExpiration,
    },
  ),
  keyed(
    'DeleteImportedKeyMaterial',
    { ...KEY_ID, KeyMaterialId: optional(keyMaterialId) },
    async (call, input, { arn }) => {
      const { imports } = call.engine.kms
      const kmsKey = await imports.deleteMaterial(arn, input.KeyMaterialId)
      return { KeyId: arn, KeyMaterialId: materialIdOf(kmsKey) }
    },
  ),
]

/** Throws OPERATION_UNSUPPORTED: AWS KMS has given the one up, and offers the other in China. */
function wrappingOf(input: Input<typeof WRAPPING>): ImportWrapping {
  const { WrappingAlgorithm: algorithm, WrappingKeySpec: keySpec } = input
  if (algorithm !== 'RSAES_PKCS1_V1_5' && algorithm !== 'SM2PKE' && keySpec !== 'SM2') {
    return { algorithm, keySpec }
  }
  throw new KeyfoldError(
    'OPERATION_UNSUPPORTED',
    `WrappingAlgorithm ${algorithm} with WrappingKeySpec ${keySpec} is not supported.`,
  )
}

function checkExpiration({ ExpirationModel, ValidTo }: Input<typeof IMPORT>): void {
  const expires = ExpirationModel !== 'KEY_MATERIAL_DOES_NOT_EXPIRE'
  if (expires === (ValidTo !== undefined)) return
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    expires
      ? 'A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES'
      : 'A validTo date cannot be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE',
  )
}

/** Only of keys that may have several. */
function materialIdOf(kmsKey: KmsKey): string | undefined {
  if (kmsKey.keySpec !== 'SYMMETRIC_DEFAULT') return undefined
  return materialId(kmsKey, kmsKey.currentVersion)
}
