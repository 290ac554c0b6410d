/** Operations of the AWS protocol asked of an engine in this process, as its HTTP side asks them. */
import type { Engine } from '../dist/engine.js'
import { ERRORS, KeyfoldError } from '../dist/errors.js'
import { Call } from '../dist/server/aws/call.js'
import { OPERATIONS } from '../dist/server/aws/operations.js'

/** What an operation answered, or the name and text of its refusal. */
export type AwsReply = Readonly<Record<string, unknown>> & {
  readonly refused?: string
  readonly message?: string
}

export async function ask(
  engine: Engine,
  operation: string,
  input: Readonly<Record<string, unknown>>,
  region: string = engine.config.region,
): Promise<AwsReply> {
  const call = new Call({
    engine,
    principal: {
      arn: `arn:aws:iam::${engine.config.account}:root`,
      credential: 'access-key',
      tokenId: 'test',
      actions: ['*'],
      keys: ['*'],
      expiresAtMs: undefined,
    },
    region,
    requestId: 'test',
    origin: {},
  })
  const found = OPERATIONS.get(operation)
  if (found === undefined) throw new Error(`there is no ${operation}`)
  try {
    return await found.answer(call, input)
  } catch (error) {
    if (!(error instanceof KeyfoldError)) throw error
    return { refused: ERRORS[error.code].aws, message: error.detail ?? '' }
  }
}
