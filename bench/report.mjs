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
  const overTime = rows.filter((row) => row.timeline !== undefined)
  writeFileSync(
    plot,
    overTime.length > 0 ? drawTimelines(machine, overTime) : drawRatios(machine, rows),
  )
  return [file, plot]
}

const COLOURS = ['#2563eb', '#f59e0b', '#10b981', '#ef4444', '#8b5cf6', '#64748b']

const escape = (text) =>
  text.replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c])

const frame = ({ width, height, title, machine }, content) =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
<text x="10" y="18" font-size="14">${title}</text>
<text x="10" y="34" fill="#64748b">${escape(`${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, ${machine.date}`)}</text>
${content}
</svg>
`

/** For each row a strip: requests answered a second as a line, refused ones as another, and what was done when. */
export function drawTimelines(machine, rows) {
  const left = 70
  const width = 820
  const strip = 170
  const strips = rows.map(({ name, timeline }, i) => {
    const { windowMs, windows, marks } = timeline
    const top = 60 + i * strip
    const plotHeight = strip - 60
    const perSecond = (count) => (count * 1000) / windowMs
    const highest = Math.max(
      1,
      ...windows.map(({ answered, refused }) => perSecond(Math.max(answered, refused))),
    )
    const x = (ms) => left + (width * ms) / (windowMs * windows.length)
    const y = (rate) => top + 20 + plotHeight * (1 - rate / highest)
    const line = (of, colour) => {
      const points = windows
        .map(
          (window, at) =>
            `${x((at + 0.5) * windowMs).toFixed(1)},${y(perSecond(of(window))).toFixed(1)}`,
        )
        .join(' ')
      return `<polyline points="${points}" fill="none" stroke="${colour}" stroke-width="1.5"/>`
    }
    return `<text x="10" y="${top + 8}">${escape(name)}</text>
<text x="${left - 6}" y="${y(highest) + 4}" text-anchor="end">${short(highest)}/s</text><text x="${left - 6}" y="${y(0) + 4}" text-anchor="end">0</text>
<line x1="${left}" x2="${left + width}" y1="${y(0)}" y2="${y(0)}" stroke="#e2e8f0"/>
${marks.map(({ atMs, what }) => `<line x1="${x(atMs)}" x2="${x(atMs)}" y1="${top + 14}" y2="${y(0)}" stroke="#0f172a" stroke-dasharray="3 3"/><text x="${x(atMs) + 4}" y="${y(0) + 14}">${escape(what)}, ${(atMs / 1000).toFixed(1)} s</text>`).join('\n')}
${line(({ answered }) => answered, COLOURS[2])}
${line(({ refused }) => refused, COLOURS[3])}`
  })
  const legend = ['answered', 'refused or lost']
    .map(
      (what, i) =>
        `<rect x="${left + i * 130}" y="42" width="10" height="10" fill="${COLOURS[2 + i]}"/><text x="${left + 15 + i * 130}" y="51">${what}</text>`,
    )
    .join('\n')
  const size = { width: left + width + 110, height: 60 + rows.length * strip }
  return frame(
    { ...size, title: 'keyfold while what it needs is away: requests a second', machine },
    `${legend}\n${strips.join('\n')}`,
  )
}

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
  const title = 'keyfold against its peers, ratio of throughput (1 = the peer)'
  return frame(
    { width: left + width + 70, height, title, machine },
    `${peers.map((peer, i) => `<rect x="${left + i * 130}" y="42" width="10" height="10" fill="${COLOURS[i % COLOURS.length]}"/><text x="${left + 15 + i * 130}" y="51">${escape(peer)}</text>`).join('\n')}
${ticks.map((tick) => `<line x1="${x(tick)}" x2="${x(tick)}" y1="60" y2="${height - 24}" stroke="${tick === 1 ? '#0f172a' : '#e2e8f0'}"/><text x="${x(tick)}" y="${height - 10}" text-anchor="middle">${Number(tick.toPrecision(2))}</text>`).join('\n')}
${bars
  .map(({ label, peer, ratio }, i) => {
    const y = 66 + i * 18
    const from = x(Math.min(1, ratio))
    const to = x(Math.max(1, ratio))
    return `<text x="${left - 8}" y="${y + 10}" text-anchor="end">${escape(label)}</text><rect x="${from}" y="${y}" width="${Math.max(1, to - from)}" height="13" fill="${COLOURS[peers.indexOf(peer) % COLOURS.length]}"/><text x="${to + 4}" y="${y + 10}">${ratio.toFixed(2)}</text>`
  })
  .join('\n')}`,
  )
}
