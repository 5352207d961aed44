#!/usr/bin/env bash
# Runs a command with AddressSanitizer and UndefinedBehaviorSanitizer, for extensions that GCC
# built with -fsanitize=address,undefined in a Python that was built without; fails if anything,
# also in a child whose output nobody reads, was reported.
#
# What is switched off: leaks, since Python leaves much to the end of the process (tests/test_memory.py
# looks for them). Nothing is suppressed.
set -euo pipefail
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
options="abort_on_error=1:log_path=$reports/report"
status=0
# With the C++ library there from the start, exceptions in other packages are found by ASan, too.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS="$options:detect_leaks=0:detect_stack_use_after_return=1" \
    UBSAN_OPTIONS="$options:halt_on_error=1:print_stacktrace=1" \
    PYTHONMALLOC=malloc "$@" || status=$?
for report in "$reports"/report*; do
    [ -e "$report" ] || continue
    cat "$report"
    status=1
done
exit "$status"
