#!/usr/bin/env bash
# csrc/ compiled for other systems with warnings as errors, and its harness run where an emulator
# or Wine is there to run it: tools/cross.sh TARGET...
# The hash of all bytes must be what it is on this machine. Needs Debian with the compilers below;
# zig comes from PyPI (ziglang).
set -euo pipefail
zig="python -m ziglang cc -target"
make=(make -s -C tests/c)
export WINEDEBUG=-all

run() {
    local found
    found=$("${make[@]}" CC="$1" RUN="$2" "${@:3}")
    echo "$found"
    expected=${expected:-$("${make[@]}" | grep "^hash")}
    grep -qxF "$expected" <<<"${found//$'\r'/}" || { echo "here it is $expected"; exit 1; }
}
compile() { "${make[@]}" CC="$1" objects; }

for target in "$@"; do
    echo "== $target"
    case $target in
        aarch64-linux) run "aarch64-linux-gnu-gcc -static" qemu-aarch64-static ;;
        riscv64-linux) run "riscv64-linux-gnu-gcc -static" qemu-riscv64-static ;;
        x86_64-musl) run "musl-gcc -static" "" OPENMP= ;;
        aarch64-musl) run "$zig aarch64-linux-musl -static" qemu-aarch64-static ;;
        x86_64-windows) run "x86_64-w64-mingw32-gcc -static" wine ;;
        aarch64-windows) compile "$zig aarch64-windows-gnu" ;;
        x86_64-macos) compile "$zig x86_64-macos" ;;
        aarch64-macos) compile "$zig aarch64-macos" ;;
        x86_64-msvc | aarch64-msvc)
            # Clang in MSVC's dialect, and what csrc/ takes of its headers
            for file in csrc/*.c; do
                for bits in 32 64; do
                    clang --driver-mode=cl "--target=${target/msvc/pc-windows-msvc}" \
                        -fms-compatibility-version=19.29 -fsyntax-only /clang:-ffreestanding \
                        /std:c11 /W4 /WX -Wpedantic -Wno-language-extension-token \
                        /fp:precise /openmp \
                        /I csrc /imsvc tools/msvc -DFA_BITS=$bits -DFA_NAME=sse2_float$bits \
                        "-DFA_COMPILED=X(sse2,baseline,baseline)" /c "$file"
                done
            done
            ;;
        *) echo "no such target: $target" && exit 2 ;;
    esac
done
