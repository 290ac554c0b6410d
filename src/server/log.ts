/** The log: JSON lines on stderr. No token, body, key or context value ever goes in. */
import { destination, pino, type Logger } from 'pino'

export type Log = Logger

export function createLog(level: string): Log {
  return pino({ level, base: null }, destination({ fd: 2, sync: true }))
}
