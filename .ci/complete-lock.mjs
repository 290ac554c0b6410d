// Completes package-lock.json after `npm install` has rewritten it: adds the optional platform packages that the
// registry at hand did not offer, so that `npm ci` agrees with the manifest on every registry and platform.
// Without them it stops with EUSAGE "Missing: @uwsjs/darwin-arm64-20 … from lock file".
//
//     node .ci/complete-lock.mjs
import { readFileSync, writeFileSync } from 'node:fs'

const OS = ['darwin', 'linux', 'win32', 'android', 'freebsd', 'openbsd', 'netbsd', 'sunos', 'aix']
const CPU = ['arm64', 'x64', 'arm', 'ia32', 'ppc64', 'riscv64', 's390x', 'loong64']

const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'))
const packages = lock.packages
let added = 0

/** Where npm would look for `name` from the package at `path`: its own node_modules first, then each one above. */
function find(path, name) {
  for (let base = path; ; base = base.slice(0, Math.max(0, base.lastIndexOf('/node_modules/')))) {
    const place = base === '' ? `node_modules/${name}` : `${base}/node_modules/${name}`
    if (place in packages) return packages[place]
    if (base === '' || !base.includes('/node_modules/')) {
      return base === '' ? undefined : packages[`node_modules/${name}`]
    }
  }
}

for (const [path, { optionalDependencies = {} }] of Object.entries(packages)) {
  for (const [name, version] of Object.entries(optionalDependencies)) {
    const found = find(path, name)
    if (found?.version === version) continue
    if (!/^\d+\.\d+\.\d+$/.test(version)) continue // A range: npm resolves those by itself.
    const words = name.split(/[-/]/)
    const os = OS.find((word) => words.includes(word))
    const cpu = CPU.find((word) => words.includes(word))
    const place = found === undefined ? `node_modules/${name}` : `${path}/node_modules/${name}`
    packages[place] = {
      version,
      ...(cpu === undefined ? {} : { cpu: [cpu] }),
      ...(os === 'linux' ? { libc: [words.includes('musl') ? 'musl' : 'glibc'] } : {}),
      optional: true,
      ...(os === undefined ? {} : { os: [os] }),
    }
    added += 1
  }
}

lock.packages = Object.fromEntries(
  Object.entries(packages).sort(([a], [b]) => a.localeCompare(b, 'en')),
)
writeFileSync('package-lock.json', JSON.stringify(lock, null, 2) + '\n')
console.log(`${added} optional platform packages added`)
