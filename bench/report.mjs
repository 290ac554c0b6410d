// What every suite's rows become: a table on the terminal, a JSON file, and a plot of the ratios.
import { writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'

export function describeMachine() {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.versions.node,
    openssl: process.versions.openssl,
    platform: `${process.platform} ${process.arch}`,
    date: new Date().toISOString().slice(0, 10),
  }
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)]
}

const short = (value) =>
  value >= 1e6
    ? `${(value / 1e6).toFixed(2)} M`
    : value >= 1e3
      ? `${(value / 1e3).toFixed(1)} k`
      : value.toFixed(2)

export function printRows(rows) {
  const width = Math.max(...rows.map((row) => row.name.length))
  for (const row of rows) {
    const ratios = Object.entries(row.ratios)
      .map(([peer, ratio]) => `${ratio.toFixed(2)}x ${peer}`)
      .join('  ')
    console.log(
      `${row.name.padEnd(width)}  ${short(row.value).padStart(9)} ${row.unit.padEnd(11)} ${ratios}`,
    )
  }
}

/** Writes FILE and its plot; returns the names of both. */
export function writeReport(file, { machine, rows }) {
  writeFileSync(file, JSON.stringify({ machine, rows }, null, 2) + '\n')
  const plot = file.replace(/(\.json)?$/, '.svg')
  writeFileSync(plot, drawRatios(machine, rows))
  return [file, plot]
}

const COLOURS = ['#2563eb', '#f59e0b', '#10b981', '#ef4444', '#8b5cf6', '#64748b']

/** Bars of every ratio on a logarithmic axis, with a line at 1: as fast as the peer. */
export function drawRatios(machine, rows) {
  const bars = rows.flatMap((row) =>
    Object.entries(row.ratios).map(([peer, ratio]) => ({ label: row.name, peer, ratio })),
  )
  const peers = [...new Set(bars.map((bar) => bar.peer))]
  const low = Math.min(0.1, ...bars.map((bar) => bar.ratio))
  const high = Math.max(2, ...bars.map((bar) => bar.ratio))
  const left = 330
  const width = 620
  const x = (ratio) => left + (width * Math.log(ratio / low)) / Math.log(high / low)
  const height = 70 + bars.length * 18 + 30
  const ticks = []
  for (let decade = Math.floor(Math.log10(low)); 10 ** decade <= high; decade++) {
    for (const step of [1, 2, 5]) {
      const tick = step * 10 ** decade
      if (tick >= low && tick <= high) ticks.push(tick)
    }
  }
  const escape = (text) =>
    text.replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c])
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 70}" height="${height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
<text x="10" y="18" font-size="14">keyfold against its peers, ratio of throughput (1 = the peer)</text>
<text x="10" y="34" fill="#64748b">${escape(`${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, ${machine.date}`)}</text>
${peers.map((peer, i) => `<rect x="${left + i * 130}" y="42" width="10" height="10" fill="${COLOURS[i % COLOURS.length]}"/><text x="${left + 15 + i * 130}" y="51">${escape(peer)}</text>`).join('\n')}
${ticks.map((tick) => `<line x1="${x(tick)}" x2="${x(tick)}" y1="60" y2="${height - 24}" stroke="${tick === 1 ? '#0f172a' : '#e2e8f0'}"/><text x="${x(tick)}" y="${height - 10}" text-anchor="middle">${Number(tick.toPrecision(2))}</text>`).join('\n')}
${bars
  .map(({ label, peer, ratio }, i) => {
    const y = 66 + i * 18
    const from = x(Math.min(1, ratio))
    const to = x(Math.max(1, ratio))
    return `<text x="${left - 8}" y="${y + 10}" text-anchor="end">${escape(label)}</text><rect x="${from}" y="${y}" width="${Math.max(1, to - from)}" height="13" fill="${COLOURS[peers.indexOf(peer) % COLOURS.length]}"/><text x="${to + 4}" y="${y + 10}">${ratio.toFixed(2)}</text>`
  })
  .join('\n')}
</svg>
`
}
