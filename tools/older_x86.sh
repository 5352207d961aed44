#!/usr/bin/env bash
# The tests on emulated x86-64 CPUs, one without AVX and one with no more than AVX2:
# tools/older_x86.sh FOLDER PYTEST_ARGUMENTS...
# Needs qemu-user-static, and fastadam installed in the Python of a virtual environment.
set -euo pipefail
bin=$(python -c 'import sys; print(sys.prefix)')/bin
tests=$1/older_x86
shift
rm -rf "$tests"
mkdir -p "$tests"
cp -r tests docs README.md pyproject.toml "$tests"
cd "$tests"
# what QEMU does not emulate of a CPU and says so of, which is not for a program to use
for cpu in Nehalem Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid; do
    python=$bin/python-${cpu%%[-,]*}
    # -0 is what Python takes for its own name, so that the Pythons it starts are emulated, too
    cat >"$python" <<END
#!/bin/sh
exec qemu-x86_64-static -cpu $cpu -0 "\$0" "$(readlink -f "$bin/python")" "\$@"
END
    chmod +x "$python"
    "$python" -P -m fastadam --require-compiled
    "$python" -P -m pytest -q -p no:cacheprovider "$@"
done
