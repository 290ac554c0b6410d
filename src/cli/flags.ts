/** How texts of flags become values, for commander. */
import { InvalidArgumentError } from 'commander'

export type Pairs = Readonly<Record<string, string>>

/** A flag that is given several times, a pair each (tags, the encryption context): adds one to those before it. The value may hold further equals signs. */
export function addPair(pair: string, pairs: Pairs = {}): Pairs {
  const at = pair.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('KEY=VALUE is needed.')
  const key = pair.slice(0, at)
  if (Object.hasOwn(pairs, key)) {
    throw new InvalidArgumentError(`${JSON.stringify(key)} is given twice.`)
  }
  // Not pairs[key] = …: the key may be __proto__.
  return Object.fromEntries([...Object.entries(pairs), [key, pair.slice(at + 1)]])
}

/** A whole number from 1. */
export function whole(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError('A whole number is needed.')
  return Number(text)
}
