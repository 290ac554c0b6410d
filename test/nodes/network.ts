/**
 * A network between this machine and a network namespace, which can be cut: packets then vanish on the way, as behind a
 * firewall that forgot a connection or a switch without power. Nobody is told, no connection is reset.
 *
 *     here                       namespace
 *     198.18.N.1   ── catalog ── 198.18.N.2     may be cut, either way or both
 *     198.18.N.5   ── callers ── 198.18.N.6     stays
 *
 * Addresses of RFC 2544, which is for tests of networks. A cut is a neighbour's address that belongs to nobody.
 */
import { spawnSync } from 'node:child_process'
import { expect } from 'vitest'

const NOBODY = '02:00:00:00:00:01'

export type Cut = 'both ways' | 'what it asks' | 'what it is answered'

export class Network {
  readonly #name = `kf${process.pid}`
  readonly #prefix = `198.18.${process.pid % 256}`

  /** What is missing, or undefined where networks may be made. Says so where CI could have seen to it. */
  static missing(): string | undefined {
    const probe = new Network()
    const made = probe.#tryOpen()
    probe.close()
    if (made === undefined) return undefined
    // A package can be installed; a capability that the machine does not give cannot.
    if (process.env['CI'] !== undefined) expect(made, 'CI needs iproute2').not.toContain('ENOENT')
    return `network namespaces need iproute2, root and CAP_NET_ADMIN, CAP_SYS_ADMIN: ${made}`
  }

  /** Of the catalog, as the namespace knows it. */
  get catalogAddress(): string {
    return `${this.#prefix}.1`
  }

  /** Of whoever serves there, as this machine knows it. */
  get callersAddress(): string {
    return `${this.#prefix}.6`
  }

  /** A command behind it runs in the namespace. */
  get within(): readonly string[] {
    return ['ip', 'netns', 'exec', this.#name]
  }

  open(): void {
    const failure = this.#tryOpen()
    if (failure !== undefined) throw new Error(failure)
  }

  #tryOpen(): string | undefined {
    const inside = ['-n', this.#name]
    const [here, there] = [`${this.#name}a`, `${this.#name}b`]
    const steps = [
      ['netns', 'add', this.#name],
      ['link', 'add', here, 'type', 'veth', 'peer', 'name', there, 'netns', this.#name],
      ['addr', 'add', `${this.#prefix}.1/30`, 'dev', here],
      ['addr', 'add', `${this.#prefix}.5/30`, 'dev', here],
      ['link', 'set', here, 'up'],
      [...inside, 'addr', 'add', `${this.#prefix}.2/30`, 'dev', there],
      [...inside, 'addr', 'add', `${this.#prefix}.6/30`, 'dev', there],
      [...inside, 'link', 'set', there, 'up'],
      [...inside, 'link', 'set', 'lo', 'up'],
    ]
    for (const step of steps) {
      const failure = ip(step)
      if (failure !== undefined) return failure
    }
    return undefined
  }

  cut(cut: Cut): void {
    for (const { inside, neighbour } of this.#ends(cut)) {
      must([...inside, 'neigh', 'replace', ...neighbour, 'lladdr', NOBODY, 'nud', 'permanent'])
    }
  }

  heal(cut: Cut): void {
    for (const { inside, neighbour } of this.#ends(cut)) {
      must([...inside, 'neigh', 'del', ...neighbour])
    }
  }

  /** Who sends to nobody. */
  #ends(cut: Cut): readonly { readonly inside: string[]; readonly neighbour: string[] }[] {
    const asking = {
      inside: ['-n', this.#name],
      neighbour: [`${this.#prefix}.1`, 'dev', `${this.#name}b`],
    }
    const answering = { inside: [], neighbour: [`${this.#prefix}.2`, 'dev', `${this.#name}a`] }
    return [
      ...(cut === 'what it is answered' ? [] : [asking]),
      ...(cut === 'what it asks' ? [] : [answering]),
    ]
  }

  /** Whatever still runs in it ends without a network. */
  close(): void {
    ip(['link', 'del', `${this.#name}a`])
    ip(['netns', 'del', this.#name])
  }
}

function must(args: readonly string[]): void {
  const failure = ip(args)
  if (failure !== undefined) throw new Error(failure)
}

function ip(args: readonly string[]): string | undefined {
  const { status, error, stderr } = spawnSync('ip', args, { encoding: 'utf8' })
  if (error !== undefined) return error.message
  return status === 0 ? undefined : `ip ${args.join(' ')}: ${stderr.trim()}`
}
