/**
 * Lines of events by the addon (native/audit_lines.cc), byte for byte those of encodeEvents in record.ts: 0.5 µs each in
 * place of 2.2, which on two cores the server and its callers wait for.
 */
import { strict as assert } from 'node:assert'

import { loadAddon, type Addon } from '../crypto/addon.ts'
import { AUDIT_LINE_BYTES_MAX } from '../limits.ts'
import type { EventGroup } from './event.ts'
import { encodeEvents, headPieces, type EncodeEvents } from './record.ts'

/** `native`: by the addon, where there is one. That it is missing is said where keys are opened. */
export function chooseEncodeEvents(native: boolean): EncodeEvents {
  if (!native) return encodeEvents
  try {
    return encodeEventsBy(loadAddon())
  } catch {
    return encodeEvents
  }
}

function encodeEventsBy(addon: Addon): EncodeEvents {
  const encodeLines = addon['encodeAuditLines'] as Addon[string]
  const out = Buffer.alloc(2 * AUDIT_LINE_BYTES_MAX)
  const encoded = new Float64Array(1)
  return (group, region, writer, write) => {
    const requestIds = Buffer.from(group.requestIds)
    const { pieces, ends } = flatHeads(group, region)
    const hash = Buffer.from(writer.position.hash)
    for (let first = 0; first < group.count;) {
      const length = encodeLines(
        ...[out, group.numbers, requestIds, pieces, ends, hash],
        ...[writer.group, writer.position.sequence, first, encoded],
      )
      if (length < 0) {
        // Ids that JSON escapes, or numbers that are none; it takes all of a group or nothing.
        assert.equal(first, 0)
        encodeEvents(group, region, writer, write)
        return
      }
      const [lines = 0] = encoded
      assert(lines > 0, 'limits.ts says that a line fits')
      write(out.subarray(0, length))
      first += lines
      const sequence = writer.position.sequence + lines
      writer.moveTo({ sequence, hash: hash.toString('latin1') })
    }
  }
}

function flatHeads(
  { heads }: EventGroup,
  region: string,
): { readonly pieces: Buffer; readonly ends: Float64Array } {
  const pieces = heads.flatMap((head) =>
    headPieces(head, region).map((piece) => Buffer.from(piece)),
  )
  let end = 0
  return {
    pieces: Buffer.concat(pieces),
    ends: Float64Array.from(pieces, ({ length }) => (end += length)),
  }
}
