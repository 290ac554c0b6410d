/**
 * Who has a call: one word of memory that both threads see, since a thread that is inside a module hears no messages.
 *
 *     ASKED ──the thread──► BEGUN ──the thread──► DONE        its answer is on its way, and is taken
 *       └──the main thread──► GIVEN_UP ◄──the main thread──┘  nobody takes it: not begun, or undone by the thread
 *
 * Each step is one atomic exchange, so a key is made and heard of, or destroyed by the thread that made it.
 */

export type CallState = SharedArrayBuffer

const ASKED = 0
const BEGUN = 1
const DONE = 2
const GIVEN_UP = 3

export function newCallState(): CallState {
  return new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)
}

// The thread's.

/** False: nobody waits for it any more, and it is not begun. */
export function begin(state: CallState): boolean {
  return Atomics.compareExchange(new Int32Array(state), 0, ASKED, BEGUN) === ASKED
}

/** False: nobody takes the answer. True again of one that was finished before. */
export function finish(state: CallState): boolean {
  return Atomics.compareExchange(new Int32Array(state), 0, BEGUN, DONE) !== GIVEN_UP
}

export function isWanted(state: CallState): boolean {
  return Atomics.load(new Int32Array(state), 0) !== GIVEN_UP
}

// The main thread's.

/** What it was: `done` is not given up any more, and stays it. */
export function giveUp(state: CallState): 'asked' | 'begun' | 'done' | 'given-up' {
  const word = new Int32Array(state)
  if (Atomics.compareExchange(word, 0, ASKED, GIVEN_UP) === ASKED) return 'asked'
  const before = Atomics.compareExchange(word, 0, BEGUN, GIVEN_UP)
  if (before === BEGUN) return 'begun'
  return before === DONE ? 'done' : 'given-up'
}
