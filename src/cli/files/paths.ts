/**
 * Paths as the bytes that they are: names of files need not be UTF-8, and a copy of a tree must keep those too. What
 * comes from the command line is UTF-8, for Node has decoded it.
 */

/** What an encrypted file's name has behind the name of its plaintext. */
export const SUFFIX = '.kfe'
const SUFFIX_BYTES = Buffer.from(SUFFIX)
const SLASH = 0x2f

/** Without slashes at its end. */
export function pathOf(text: string): Buffer {
  const path = Buffer.from(text)
  let end = path.length
  while (end > 1 && path[end - 1] === SLASH) end--
  return path.subarray(0, end)
}

export function joinPath(directory: Buffer, name: Buffer): Buffer {
  return Buffer.concat([directory, Buffer.from('/'), name])
}

export function directoryOf(path: Buffer): Buffer {
  const at = path.lastIndexOf(SLASH)
  if (at < 0) return Buffer.from('.')
  return path.subarray(0, Math.max(at, 1))
}

export function nameOf(path: Buffer): Buffer {
  return path.subarray(path.lastIndexOf(SLASH) + 1)
}

export function withSuffix(name: Buffer): Buffer {
  return Buffer.concat([name, SUFFIX_BYTES])
}

/** undefined: it has none, or is nothing else. */
export function withoutSuffix(name: Buffer): Buffer | undefined {
  const at = name.length - SUFFIX_BYTES.length
  if (at < 1 || name.compare(SUFFIX_BYTES, 0, SUFFIX_BYTES.length, at) !== 0) return undefined
  return name.subarray(0, at)
}

/** On one line, whatever bytes it has. */
export function showPath(path: Buffer): string {
  const text = path.toString()
  if (Buffer.from(text).equals(path)) return text.replaceAll('\n', '\\n')
  const bytes = path.toString('latin1')
  return bytes.replace(
    /[^ -~]/g,
    (byte) => `\\x${byte.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
}
