/** The log: JSON lines on stderr. No token, body, key or context value ever goes in. */
import { destination, pino, type DestinationStream, type Logger } from 'pino'

export type Log = Logger

export function createLog(
  level: string,
  lines: DestinationStream = destination({ fd: 2, sync: true }),
): Log {
  return pino({ level, base: null }, lines)
}
