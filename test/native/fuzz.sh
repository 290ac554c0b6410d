#!/usr/bin/env bash
# Fuzzes native/'s batches with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, from valid batches that the
# fuzzer writes itself. Fails on a finding, whose input it leaves in build/fuzz/.
#
#     test/native/fuzz.sh [seconds, 60 unless told]
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-60}
compiler=${CLANGXX:-clang++}
directory=build/fuzz
program=$directory/fuzz_message_batch
warnings=(-std=c++17 -Wall -Wextra -Werror -fno-exceptions -fno-rtti)
sanitizers=(-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all)
mkdir -p "$directory"
corpus=$(mktemp -d)
trap 'rm -rf "$corpus"' EXIT

sources=(native/*.cc)
sources=("${sources[@]/native\/addon.cc/}")
# The kernels take a minute each under both sanitizers: as many at a time as there are processors.
printf '%s\n' "${sources[@]}" | grep . | xargs -P "$(nproc)" -I{} sh -c '
  source=$1; directory=$2; shift 2
  exec "$@" -c "$source" -o "$directory/$(basename "$source" .cc).o"
' _ {} "$directory" "$compiler" "${warnings[@]}" "${sanitizers[@]}" -fsanitize=fuzzer-no-link
objects=()
for source in "${sources[@]}"; do
  [ -n "$source" ] && objects+=("$directory/$(basename "$source" .cc).o")
done
"$compiler" "${warnings[@]}" -fexceptions -frtti "${sanitizers[@]}" -fsanitize=fuzzer \
  test/native/fuzz_message_batch.cc "${objects[@]}" -o "$program" -pthread

"$program" --write-seeds "$corpus"
"$program" "$corpus" -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 \
  -artifact_prefix="$directory/" -print_final_stats=1
