/**
 * Patterns of policies and tokens: `*` stands for any run of characters, `?` for any one (one UTF-16 unit). A pattern
 * is taken apart at its stars once; matching then looks for each piece behind the one before. No regular expression,
 * and no backtracking over pieces that were found: whoever writes a pattern cannot make it slow.
 */

export type Matcher = (text: string) => boolean

export function compilePattern(pattern: string): Matcher {
  if (pattern === '*') return () => true
  if (!/[*?]/.test(pattern)) return (text) => text === pattern
  const [first, ...rest] = pattern.split('*').map(pieceOf) as [Piece, ...Piece[]]
  const last = rest.pop()
  if (last === undefined) return (text) => text.length === first.length && first.standsAt(text, 0)
  const middle = rest.filter((piece) => piece.length > 0)
  return (text) => {
    const end = text.length - last.length
    if (end < first.length || !first.standsAt(text, 0) || !last.standsAt(text, end)) return false
    let from = first.length
    for (const piece of middle) {
      const at = piece.find(text, from)
      if (at < 0) return false
      from = at + piece.length
    }
    // A piece that reaches into the last one's place has no later place that would do.
    return from <= end
  }
}

/** What stands between two stars. */
interface Piece {
  readonly length: number
  standsAt(text: string, at: number): boolean
  /** The first place at or behind `from`; -1 where there is none. */
  find(text: string, from: number): number
}

function pieceOf(piece: string): Piece {
  const { length } = piece
  // indexOf and startsWith do the work where they can.
  if (!piece.includes('?')) {
    return {
      length,
      standsAt: (text, at) => text.startsWith(piece, at),
      find: (text, from) => text.indexOf(piece, from),
    }
  }
  const standsAt = (text: string, at: number): boolean => {
    for (let i = 0; i < length; i++) {
      if (piece[i] !== '?' && piece[i] !== text[at + i]) return false
    }
    return true
  }
  return {
    length,
    standsAt,
    find: (text, from) => {
      for (let at = from; at + length <= text.length; at++) if (standsAt(text, at)) return at
      return -1
    },
  }
}

/**
 * Patterns of ARNs: each of the six parts between colons is matched by itself, so a star never reaches into the next
 * (IAM User Guide, "Amazon Resource Name (ARN) condition operators"). undefined: not a pattern of six parts.
 */
export function compileArnPattern(pattern: string): Matcher | undefined {
  const parts = arnParts(pattern)
  if (parts === undefined) return undefined
  const matchers = parts.map(compilePattern)
  return (text) => {
    const found = arnParts(text)
    return found !== undefined && matchers.every((matches, i) => matches(found[i] as string))
  }
}

const ARN_PARTS = 6

/** The last part may hold colons of its own. */
function arnParts(text: string): readonly string[] | undefined {
  const parts = text.split(':')
  if (parts.length < ARN_PARTS || parts[0] !== 'arn') return undefined
  return [...parts.slice(0, ARN_PARTS - 1), parts.slice(ARN_PARTS - 1).join(':')]
}
