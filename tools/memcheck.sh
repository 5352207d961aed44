#!/usr/bin/env bash
# Runs a command under valgrind's memcheck, and its children too; fails if it does, or if a report
# has a function of fastadam's on its stack.
#
# All other reports are left out. They come from CPython, which computes with a digit that an int
# of none does not have, and throws the result away (maybe_small_long); valgrind then holds all
# small ints for undefined.
set -euo pipefail
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
status=0
PYTHONMALLOC=malloc valgrind --quiet --trace-children=yes --num-callers=60 --error-limit=no \
    --log-file="$reports/%p" "$@" || status=$?
# Reports are separated by lines that have nothing but the number of the process.
ours=$(awk 'BEGIN { RS = "==[0-9]+== \n" } /fastadam\/[a-z\/]*_(native|tensors)/' "$reports"/*)
if [ -n "$ours" ]; then
    echo "$ours"
    status=1
fi
echo "memcheck: $(ls "$reports" | wc -l) processes, $(cat "$reports"/* | grep -c '    at ' || true)" \
    "reports, of which $([ -n "$ours" ] && echo some || echo none) of fastadam's code"
exit "$status"
