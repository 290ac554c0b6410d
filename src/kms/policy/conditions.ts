/**
 * Conditions of policy statements (IAM User Guide, "IAM JSON policy elements: Condition operators"): an operator, the
 * condition key that it reads, and the values that it compares with, compiled once. A value that an operator cannot
 * use is refused; a request's value that it cannot use does not match.
 */
import { BlockList, isIP } from 'node:net'

import { findConditionKey, type ConditionKey } from './condition-keys.ts'
import { compileArnPattern, compilePattern, type Matcher } from './pattern.ts'
import { quote } from './strict-json.ts'

export interface Condition {
  readonly key: ConditionKey
  /** `values`: what the key has in this request; none where it is absent. */
  holds(values: readonly string[]): boolean
}

export type Effect = 'Allow' | 'Deny'

interface Operator {
  readonly negated: boolean
  /** undefined: the operator takes no such value. */
  readonly compile: (value: string) => Matcher | undefined
  /** What a value has to be. */
  readonly takes: string
}

const lowerCase = (compile: Operator['compile']): Operator['compile'] => {
  return (value) => {
    const matches = compile(value.toLowerCase())
    return matches && ((text) => matches(text.toLowerCase()))
  }
}

const equals = (value: string): Matcher => {
  return (text) => text === value
}

const STRINGS = { takes: 'a string' }
const NUMBERS = { takes: 'a number', negated: false }
const DATES = { takes: 'a date as ISO 8601 has it, or seconds since 1970', negated: false }
const ARNS = {
  takes: 'an ARN of six parts, in which * and ? may stand',
  compile: compileArnPattern,
}
const ADDRESSES = { takes: 'an IP address or a range in CIDR notation', compile: addressRange }
const BOOLEAN = { takes: 'true or false', negated: false, compile: lowerCase(boolean) }

const OPERATORS: Readonly<Record<string, Operator>> = {
  StringEquals: { ...STRINGS, negated: false, compile: equals },
  StringNotEquals: { ...STRINGS, negated: true, compile: equals },
  StringEqualsIgnoreCase: { ...STRINGS, negated: false, compile: lowerCase(equals) },
  StringNotEqualsIgnoreCase: { ...STRINGS, negated: true, compile: lowerCase(equals) },
  StringLike: { ...STRINGS, negated: false, compile: compilePattern },
  StringNotLike: { ...STRINGS, negated: true, compile: compilePattern },
  NumericEquals: { ...NUMBERS, compile: compare(number, (a, b) => a === b) },
  NumericNotEquals: { ...NUMBERS, negated: true, compile: compare(number, (a, b) => a === b) },
  NumericLessThan: { ...NUMBERS, compile: compare(number, (a, b) => a < b) },
  NumericLessThanEquals: { ...NUMBERS, compile: compare(number, (a, b) => a <= b) },
  NumericGreaterThan: { ...NUMBERS, compile: compare(number, (a, b) => a > b) },
  NumericGreaterThanEquals: { ...NUMBERS, compile: compare(number, (a, b) => a >= b) },
  DateEquals: { ...DATES, compile: compare(date, (a, b) => a === b) },
  DateNotEquals: { ...DATES, negated: true, compile: compare(date, (a, b) => a === b) },
  DateLessThan: { ...DATES, compile: compare(date, (a, b) => a < b) },
  DateLessThanEquals: { ...DATES, compile: compare(date, (a, b) => a <= b) },
  DateGreaterThan: { ...DATES, compile: compare(date, (a, b) => a > b) },
  DateGreaterThanEquals: { ...DATES, compile: compare(date, (a, b) => a >= b) },
  Bool: BOOLEAN,
  IpAddress: { ...ADDRESSES, negated: false },
  NotIpAddress: { ...ADDRESSES, negated: true },
  ArnEquals: { ...ARNS, negated: false },
  ArnLike: { ...ARNS, negated: false },
  ArnNotEquals: { ...ARNS, negated: true },
  ArnNotLike: { ...ARNS, negated: true },
}

const OPERATOR_SPELLING = /^(?:(ForAllValues|ForAnyValue):)?([A-Za-z]+?)(IfExists)?$/

/**
 * Throws an Error that says what is wrong with the condition.
 *
 * Where a key that has one value has several after all (an encryption context with both `App` and `app`), an Allow
 * wants all of them and a Deny any: a second spelling neither opens what the first would not, nor escapes.
 */
export function compileCondition(
  spelling: string,
  keySpelling: string,
  values: readonly string[],
  effect: Effect,
): Condition {
  const [, qualifier, name = '', suffix] = OPERATOR_SPELLING.exec(spelling) ?? []
  const key = findConditionKey(keySpelling)
  if (key === undefined) throw new Error(`the condition key ${quote(keySpelling)} is not known`)
  if (spelling === 'Null') return { key, holds: nullCheck(values) }
  const operator = Object.hasOwn(OPERATORS, name) ? OPERATORS[name] : undefined
  if (operator === undefined) throw new Error(`the operator ${quote(spelling)} is not known`)
  if (key.multivalued && qualifier === undefined) {
    throw new Error(
      `${quote(keySpelling)} has several values: ForAllValues: or ForAnyValue: is needed`,
    )
  }
  const matchers = values.map((value) => {
    const matches = operator.compile(value)
    if (matches === undefined) throw new Error(`${quote(spelling)} takes ${operator.takes}`)
    return matches
  })
  const { negated } = operator
  const holdsFor = (text: string): boolean => negated !== matchers.some((matches) => matches(text))
  const whenAbsent =
    suffix === 'IfExists' || (qualifier === undefined ? negated : qualifier === 'ForAllValues')
  const wantsAll = qualifier === 'ForAllValues' || (qualifier === undefined && effect === 'Allow')
  return {
    key,
    holds: (present) => {
      if (present.length === 0) return whenAbsent
      return wantsAll ? present.every(holdsFor) : present.some(holdsFor)
    },
  }
}

/** "true": the key is not there. */
function nullCheck(values: readonly string[]): Condition['holds'] {
  const wanted = new Set(values.map((value) => value.toLowerCase()))
  for (const value of wanted) {
    if (value !== 'true' && value !== 'false') throw new Error(`"Null" takes ${BOOLEAN.takes}`)
  }
  return (present) => wanted.has(String(present.length === 0))
}

function boolean(value: string): Matcher | undefined {
  return value === 'true' || value === 'false' ? equals(value) : undefined
}

function compare(
  read: (text: string) => number,
  holds: (requested: number, stated: number) => boolean,
): Operator['compile'] {
  return (value) => {
    const stated = read(value)
    if (Number.isNaN(stated)) return undefined
    // NaN compares with nothing, which is what text that is no number should do.
    return (text) => holds(read(text), stated)
  }
}

function number(text: string): number {
  return /^-?\d+(?:\.\d+)?$/.test(text) ? Number(text) : NaN
}

const DATE = /^\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:\d{2}))?$/

/** Milliseconds. A year alone is refused: as seconds since 1970 it would be a minute of that year. */
function date(text: string): number {
  if (DATE.test(text)) return Date.parse(text)
  return /^\d{5,15}(?:\.\d+)?$/.test(text) ? Number(text) * 1000 : NaN
}

/** IPv4 addresses in their IPv6 spelling are what they stand for. */
function addressRange(value: string): Matcher | undefined {
  const [address = '', prefix, ...rest] = value.split('/')
  const family = isIP(address)
  // A zone (RFC 4007) means something on one machine only.
  if (family === 0 || rest.length > 0 || address.includes('%')) return undefined
  const bits = family === 4 ? 32 : 128
  const prefixBits = prefix === undefined ? bits : /^\d{1,3}$/.test(prefix) ? Number(prefix) : NaN
  if (!(prefixBits <= bits)) return undefined
  const range = new BlockList()
  range.addSubnet(address, prefixBits, family === 4 ? 'ipv4' : 'ipv6')
  return (text) => {
    const textFamily = isIP(text)
    return textFamily !== 0 && range.check(text, textFamily === 4 ? 'ipv4' : 'ipv6')
  }
}
