/**
 * A keyfold as the KMS of a keyring, over the client library. Its data keys are wrapped keys of usage 02, which the
 * AWS door opens as well; further keys wrap the data key as an inline message, which both doors open too.
 */
import type { Keyfold } from '../../client/keyfold.ts'
import { KeyfoldError } from '../../errors.ts'
import { decodeInlineMessage, INLINE_VERSION } from '../../format/message.ts'
import { decodeWrappedKey } from '../../format/wrapped-key.ts'
import type { KmsClient } from './kms-keyring.ts'

/** Errors: those of the client library. The client stays the caller's to close. */
export function keyfoldKmsClient(keyfold: Keyfold): KmsClient {
  return {
    async generateDataKey({ keyId, context, bytes }) {
      if (bytes !== DATA_KEY_BYTES) {
        throw new KeyfoldError('CONFIG_INVALID', `keyfold's data keys have ${DATA_KEY_BYTES} bytes`)
      }
      const [dataKey] = await keyfold.dataKeys(keyId, 1, { context })
      if (dataKey?.plaintext === undefined) {
        throw new KeyfoldError('CONNECTION_FAILED', 'the answer is not one of keyfold')
      }
      const plaintext = taken(dataKey.plaintext)
      try {
        checkNamedKey(dataKey.wrappedKey, keyId)
      } catch (error) {
        plaintext.fill(0)
        throw error
      }
      return { keyId, plaintext, ciphertext: dataKey.wrappedKey }
    },
    async encrypt({ keyId, context, plaintext }) {
      const { keyId: arn, ciphertexts } = await keyfold.encryptBatch(keyId, [plaintext], {
        context,
      })
      return { keyId: arn, ciphertext: ciphertexts[0] as Uint8Array }
    },
    async decrypt({ keyId, context, ciphertext }) {
      checkNamedKey(ciphertext, keyId)
      const { plaintexts, errors } = await keyfold.decryptBatch([ciphertext], { context })
      const [plaintext] = plaintexts
      if (plaintext === undefined) throw new KeyfoldError(errors[0]?.[1] ?? 'DECRYPT_FAILED')
      return { keyId, plaintext: taken(plaintext) }
    },
  }
}

const DATA_KEY_BYTES = 32

/** Out of the answer's bytes, which are filled with zeros. */
function taken(view: Uint8Array): Buffer {
  const plaintext = Buffer.from(view)
  view.fill(0)
  return plaintext
}

/**
 * The batch API does not always say which key it used; the ciphertext does, and its tag covers that.
 * Throws KMS_KEY_INCORRECT; DECRYPT_FAILED and MESSAGE_MALFORMED where it is no ciphertext of keyfold's. */
function checkNamedKey(ciphertext: Uint8Array, keyArn: string): void {
  const wrappedKey =
    ciphertext[0] === INLINE_VERSION
      ? decodeInlineMessage(ciphertext).keyEntry.wrappedKey
      : ciphertext
  const { kmsKeyId } = decodeWrappedKey(wrappedKey)
  // A UUID, or mrk- and 32 hex digits.
  const named = keyArn.slice(keyArn.indexOf('/') + 1).replace(/^mrk-|-/g, '')
  if (Buffer.from(kmsKeyId).toString('hex') !== named) throw new KeyfoldError('KMS_KEY_INCORRECT')
}
