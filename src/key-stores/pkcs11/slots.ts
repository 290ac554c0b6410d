/** Which of a module's slots has the token that was configured. Numbers of slots change; labels and serials do not. */
import { KeyfoldError } from '../../errors.ts'
import type { Cryptoki, Handle } from './cryptoki.ts'
import { unreachable } from './failures.ts'
import type { TokenName } from './messages.ts'

interface SlotOfToken {
  readonly slot: Handle
  readonly serial: string
}

/** Throws KEY_STORE_UNREACHABLE (not there), CONFIG_INVALID (several are meant). */
export function selectSlot(cryptoki: Cryptoki, name: TokenName): SlotOfToken {
  const found: SlotOfToken[] = []
  for (const slot of cryptoki.C_GetSlotList(true)) {
    const token = describe(cryptoki, slot)
    if (token === undefined) continue
    const isMeant =
      'label' in name
        ? token.label.trimEnd() === name.label
        : 'serial' in name
          ? token.serialNumber.trimEnd() === name.serial
          : slot.readUInt32LE(0) === name.slot
    if (isMeant) found.push({ slot, serial: token.serialNumber })
  }
  const [first] = found
  if (first === undefined)
    throw unreachable(`there is no token ${JSON.stringify(name)}`, 'token-missing')
  if (found.length > 1) {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      `several tokens are named ${JSON.stringify(name)}: name one by its serial number`,
    )
  }
  return first
}

/** undefined: one broken token does not hide the others. */
function describe(
  cryptoki: Cryptoki,
  slot: Handle,
): { readonly label: string; readonly serialNumber: string } | undefined {
  try {
    return cryptoki.C_GetTokenInfo(slot)
  } catch {
    return undefined
  }
}
