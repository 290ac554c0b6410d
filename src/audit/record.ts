/**
 * The lines of an audit file. Each is one JSON object on one line, so that every log tool reads it, and each ends
 * the same way:
 *
 *     …,"group":G,"sequence":N,"previousHash":"64 hex digits","hash":"64 hex digits"}
 *
 *     hash          SHA-256 of the line's bytes before `,"hash":`
 *     previousHash  hash of the line before it, across files; 64 zeros in the first line of a chain
 *     sequence      1, 2, 3, … over all lines of the chain
 *     group         sequence of the first line that was written and synced together with this one: a later group
 *                   is begun only when this one is on the disk, so a write that was cut off can damage one group
 *
 * There are three kinds. The first line of a file names the chain, the number of the file and, in the first file, where
 * the chains ended that were there before. The last line of a finished file says so. Everything between is an event,
 * with the field names of AWS CloudTrail's records ("CloudTrail record contents", eventVersion 1.11) and three groups
 * of fields of ours: additionalEventData (which is CloudTrail's place for such), and the four above.
 *
 * JSON escapes control characters, so no line holds a zero byte: those are what was preallocated and not written.
 */
import { hash as digest } from 'node:crypto'

import { decodeEncryptionContext } from '../format/encryption-context.ts'
import { SUCCESS, unpackGroup, type EventGroup, type EventHead } from './event.ts'

export const FIRST_HASH = '0'.repeat(64)

/** Where a chain was found to end. */
export interface ChainEnd {
  readonly chain: string
  readonly file: number
  readonly sequence: number
  readonly hash: string
  /** Its last line says that nothing follows. */
  readonly closed: boolean
}

export interface FileHeader {
  readonly chain: string
  readonly file: number
  readonly startedAt: string
  /** In the first file of a chain: chains of other writers, as far as no line before told of them. */
  readonly olderChains?: readonly ChainEnd[]
}

export type Closing = 'rotated' | 'stopped'

/** How far a chain has come. */
export interface ChainPosition {
  /** Of the last line. */
  readonly sequence: number
  readonly hash: string
}

/** Where lines go. Bytes are whole lines, and may be written over once it returns. */
export type WriteLines = (lines: string | Uint8Array) => void

const HEADER_START = '{"auditFile":'
const CLOSING_START = '{"auditClosed":'

export function encodeHeader(header: FileHeader): string {
  return `${HEADER_START}${JSON.stringify(header)}`
}

export function encodeClosing(closing: Closing): string {
  return `${CLOSING_START}${JSON.stringify(closing)}`
}

/** The header that a line holds; undefined where it is none. */
export function decodeHeader(line: Buffer): FileHeader | undefined {
  return decodeSpecial(line, HEADER_START, 'auditFile') as FileHeader | undefined
}

export function decodeClosing(line: Buffer): Closing | undefined {
  return decodeSpecial(line, CLOSING_START, 'auditClosed') as Closing | undefined
}

function decodeSpecial(line: Buffer, start: string, field: string): unknown {
  if (line.toString('latin1', 0, start.length) !== start) return undefined
  return (JSON.parse(line.toString('utf8')) as Record<string, unknown>)[field]
}

/** Chains lines: each gets its place and the hash of the one before it. */
export class LineWriter {
  #sequence: number
  #hash: string
  readonly group: number

  constructor({ sequence, hash }: ChainPosition) {
    this.#sequence = sequence
    this.#hash = hash
    this.group = sequence + 1
  }

  get position(): ChainPosition {
    return { sequence: this.#sequence, hash: this.#hash }
  }

  /** Past lines that somebody else has chained. */
  moveTo({ sequence, hash }: ChainPosition): void {
    this.#sequence = sequence
    this.#hash = hash
  }

  /** `body`: a JSON object without its closing brace. */
  line(body: string): string {
    const chained = `${body},"group":${this.group},"sequence":${++this.#sequence},"previousHash":"${this.#hash}"`
    this.#hash = digest('sha256', chained)
    return `${chained},"hash":"${this.#hash}"}\n`
  }
}

export interface ChainedLine {
  readonly group: number
  readonly sequence: number
  readonly previousHash: string
  readonly hash: string
}

const HASH_BYTES = ',"hash":"'.length + 64 + '"}'.length
const TAIL_BYTES_MAX = 256
const TAIL_PATTERN =
  /,"group":(\d{1,16}),"sequence":(\d{1,16}),"previousHash":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}$/

/** What the end of a line says, if its hash is that of its bytes; else undefined. `line` has no newline. */
export function decodeLine(line: Buffer): ChainedLine | undefined {
  const tail = decodeTail(line)
  if (tail === undefined) return undefined
  const hashed = line.subarray(0, line.length - HASH_BYTES)
  return digest('sha256', hashed) === tail.hash ? tail : undefined
}

/** The same of a line of which the beginning is lost. */
export function decodeTail(line: Buffer): ChainedLine | undefined {
  const tail = line.toString('latin1', Math.max(0, line.length - TAIL_BYTES_MAX))
  const match = TAIL_PATTERN.exec(tail)
  if (match === null) return undefined
  const [, group, sequence, previousHash, hash] = match as unknown as readonly string[]
  return {
    group: Number(group),
    sequence: Number(sequence),
    previousHash: previousHash as string,
    hash: hash as string,
  }
}

/** Writes the lines of a group of events, one after the other. */
export type EncodeEvents = (
  group: EventGroup,
  region: string,
  writer: LineWriter,
  write: WriteLines,
) => void

/** Mostly hashing and joining text; native-lines.ts has the same in a quarter of the time. */
export const encodeEvents: EncodeEvents = (group, region, writer, write) => {
  const heads = group.heads.map((head) => headPieces(head, region))
  let timeMs = NaN
  let time = ''
  unpackGroup(group, (index, event) => {
    const pieces = heads[index] as HeadPieces
    if (event.timeMs !== timeMs) {
      timeMs = event.timeMs
      time = new Date(timeMs).toISOString()
    }
    const { messages, bytes, failed } = event
    const requestId = JSON.stringify(event.requestId).slice(1, -1)
    write(
      writer.line(
        pieces[0] +
          time +
          pieces[1] +
          requestId +
          pieces[2] +
          messages +
          pieces[3] +
          bytes +
          pieces[4] +
          failed +
          pieces[5],
      ),
    )
  })
}

/**
 * Everything of a line that events of one head share, as JSON. Between the pieces stand the time, the request id, and the
 * numbers of messages, bytes and failed messages.
 */
export type HeadPieces = readonly [string, string, string, string, string, string]

export function headPieces(head: EventHead, region: string): HeadPieces {
  const { sourceAddress, outcome, keyArns, decidedBy } = head
  const parameters = encodeParameters(head)
  const resources = keyArns.map((ARN) => ({
    ARN,
    accountId: accountOf(ARN),
    type: 'AWS::KMS::Key',
  }))
  const shared =
    `,"eventSource":"keyfold","eventName":${JSON.stringify(head.operation)}` +
    `,"awsRegion":${JSON.stringify(region)}` +
    (sourceAddress === undefined ? '' : `,"sourceIPAddress":${JSON.stringify(sourceAddress)}`) +
    `,"userIdentity":${JSON.stringify(identityOf(head))}` +
    (outcome === SUCCESS ? '' : `,"errorCode":${JSON.stringify(outcome)}`) +
    (parameters === '' ? '' : `,"requestParameters":{${parameters}}`) +
    (resources.length === 0 ? '' : `,"resources":${JSON.stringify(resources)}`)
  return [
    '{"eventVersion":"1.11","eventTime":"',
    `"${shared},"requestID":"`,
    `","additionalEventData":{"door":"${head.door}","messages":`,
    ',"bytes":',
    ',"failed":',
    `${decidedBy === undefined ? '' : `,"decidedBy":${JSON.stringify(decidedBy)}`}}`,
  ]
}

/** As CloudTrail's userIdentity: bearer tokens stand under credentialId, access keys under accessKeyId. */
function identityOf({ principalArn, credentialId, door }: EventHead): Record<string, string> {
  if (door === 'server') return { type: 'AWSService', invokedBy: 'keyfold' }
  if (principalArn === '') return { type: 'Unknown' }
  const [kind = ''] = principalArn.split(':').slice(5).join(':').split('/')
  return {
    type: IDENTITY_TYPES[kind] ?? 'Unknown',
    arn: principalArn,
    accountId: accountOf(principalArn),
    ...(door === 'v1' ? { credentialId } : { accessKeyId: credentialId }),
  }
}

const IDENTITY_TYPES: Readonly<Record<string, string>> = {
  root: 'Root',
  user: 'IAMUser',
  role: 'Role',
  'assumed-role': 'AssumedRole',
}

function accountOf(arn: string): string {
  return arn.split(':')[4] ?? ''
}

/** Pair by pair: an object would lose a key of the name __proto__. */
function encodeParameters({ parameters = {}, encryptionContext }: EventHead): string {
  const pairs = Object.entries(parameters).map(encodePair)
  if (encryptionContext !== undefined && encryptionContext.length > 0) {
    const context = decodeEncryptionContext(encryptionContext).map(encodePair)
    pairs.push(`"encryptionContext":{${context.join(',')}}`)
  }
  return pairs.join(',')
}

function encodePair([name, value]: readonly [string, unknown]): string {
  return `${JSON.stringify(name)}:${JSON.stringify(value)}`
}
