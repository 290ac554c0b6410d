import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  root: new URL('..', import.meta.url).pathname,
  test: {
    include: ['test/**/*.test.ts'],
    // Worker threads load the built files, and the addon belongs to a process: so do the tests.
    pool: 'forks',
    // vitest leaves a core to itself. On two cores one file would run at a time, and most of them wait for processes.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    // Only what hangs takes so long: a machine that others use as well must not fail what is merely slow.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    server: { deps: { external: [/\/dist\//] } },
  },
})
