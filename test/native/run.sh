#!/usr/bin/env bash
# Builds and runs every test/native/*_test.cc, plain and then with AddressSanitizer and UndefinedBehaviorSanitizer,
# against all of native/ but addon.cc, which needs Node.
#
#     test/native/run.sh [name of one test, without _test.cc]
set -euo pipefail
cd "$(dirname "$0")/../.."

compiler=${CXX:-g++}
warnings=(-std=c++17 -Wall -Wextra -Werror -fno-exceptions -fno-rtti)
tests=(test/native/"${1:-*}"_test.cc)
[ -z "${1:-}" ] && tests=(test/native/*_test.cc)

build_and_run() {
  local variant=$1
  shift
  local directory=build/native-test/$variant
  mkdir -p "$directory"
  local objects=() source object
  for source in native/*.cc; do
    [ "$source" = native/addon.cc ] && continue
    object=$directory/$(basename "$source" .cc).o
    "$compiler" "${warnings[@]}" "$@" -c "$source" -o "$object"
    objects+=("$object")
  done
  for source in "${tests[@]}"; do
    local program=$directory/$(basename "$source" .cc)
    # The tests may use exceptions of the standard library; the kernels may not.
    "$compiler" "${warnings[@]}" -fexceptions -frtti "$@" "$source" "${objects[@]}" -o "$program" -pthread
    echo "$variant: $(basename "$source")"
    "$program"
  done
}

# Side by side: the kernels take the compiler a minute each.
build_and_run plain -O3 &
plain=$!
build_and_run sanitized -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all &
sanitized=$!
wait "$plain"
wait "$sanitized"
