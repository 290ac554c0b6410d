// Builds the TypeScript on `npm ci` in a checkout. In an installed package dist/ is already there, and with
// `--omit=dev` there is no compiler: then there is nothing to do.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

if (existsSync('node_modules/typescript/bin/tsc')) {
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json'],
    {
      stdio: 'inherit',
    },
  )
  process.exitCode = status ?? 1
}
