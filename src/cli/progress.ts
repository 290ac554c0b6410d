/**
 * How far a long command is, on stderr: a line that changes where a person watches, otherwise a plain one now and then.
 * Nothing is said of what is over soon.
 */
const FIRST_AFTER_MS = 2_000
const WATCHED_EVERY_MS = 250
const PLAIN_EVERY_MS = 15_000

export class Progress {
  readonly #things: string
  readonly #startedMs = performance.now()
  readonly #fraction: (() => number | undefined) | undefined
  readonly #startFraction: number
  readonly #show: (count: number) => string
  readonly #starter: NodeJS.Timeout | undefined
  #timer: NodeJS.Timeout | undefined
  #count = 0
  #shown = false
  #shownText = ''

  /**
   * `watched`: whether a person sees it, and nothing else is written there. `plain`: lines where nobody watches.
   * `fraction`: how much is done, 0 to 1, where and once that is known. `show`: a count, where it is not one to read.
   */
  constructor(
    things: string,
    watched: boolean,
    options: {
      readonly plain?: boolean
      readonly fraction?: () => number | undefined
      readonly show?: (count: number) => string
    } = {},
  ) {
    this.#things = things
    this.#show = options.show ?? ((count) => count.toLocaleString('en'))
    this.#fraction = options.fraction
    this.#startFraction = options.fraction?.() ?? 0
    if (!watched && options.plain !== true) return
    const everyMs = watched ? WATCHED_EVERY_MS : PLAIN_EVERY_MS
    const show = watched ? () => this.#showWatched() : () => this.#showPlain()
    this.#starter = setTimeout(
      () => {
        this.#timer = setInterval(show, everyMs)
      },
      watched ? FIRST_AFTER_MS : 0,
    )
  }

  add(count: number): void {
    this.#count += count
  }

  end(): void {
    clearTimeout(this.#starter)
    clearInterval(this.#timer)
    if (this.#shown) process.stderr.write('\n')
  }

  #showWatched(): void {
    this.#shown = true
    // A text that has become shorter covers the one before it.
    this.#shownText = this.#text().padEnd(this.#shownText.trimEnd().length)
    process.stderr.write(`\r${this.#shownText} `)
  }

  #showPlain(): void {
    process.stderr.write(`keyfold: ${this.#text()}\n`)
  }

  #text(): string {
    const elapsedMs = performance.now() - this.#startedMs
    const perSecond = Math.round(this.#count / (elapsedMs / 1000))
    const done = `${this.#show(this.#count)}${this.#things === '' ? '' : ` ${this.#things}`}, ${this.#show(perSecond)}/s`
    const fraction = this.#fraction?.()
    if (fraction === undefined) return done
    const made = fraction - this.#startFraction
    const left = made <= 0 ? '' : `, ${duration(((1 - fraction) / made) * elapsedMs)} left`
    return `${bar(fraction)} ${Math.floor(100 * fraction)} %, ${done}${left}`
  }
}

const BAR_CELLS = 20

function bar(fraction: number): string {
  const full = Math.round(BAR_CELLS * fraction)
  return `[${'#'.repeat(full)}${'.'.repeat(BAR_CELLS - full)}]`
}

function duration(ms: number): string {
  const seconds = Math.round(ms / 1000)
  if (seconds < 120) return `${seconds} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 120 ? `${minutes} min` : `${Math.round(minutes / 60)} h`
}
