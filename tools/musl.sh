#!/usr/bin/env bash
# The tests on musl: tools/musl.sh FOLDER PYTEST_ARGUMENTS...
# Debian has musl and a compiler for it, but no Python: its source is built in FOLDER, and NumPy's
# wheel for musl runs in it. Needs Debian 12 with musl-tools, Python 3.11 as it has, and in it
# setuptools, cython and numpy.
set -euo pipefail
source=$PWD
folder=$1
shift
version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p "$folder"/apt/{lists,etc}
folder=$(cd "$folder" && pwd)

# NumPy's libraries have packed relocations, which musl knows from 1.2.4 on; Debian 12 has 1.2.3
sources=/etc/apt/sources.list.d/debian.sources
sed 's/^Types:.*/Types: deb-src/' $sources >"$folder/apt/etc/here.sources"
sed 's/bookworm/trixie/g' $sources >"$folder/apt/etc/next.sources"
apt=(apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$folder/apt/etc"
    -o "Dir::State::lists=$folder/apt/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
"${apt[@]}" update
cd "$folder"
"${apt[@]}" download musl/trixie
"${apt[@]}" source --download-only --tar-only "python$version/bookworm" zlib/bookworm
dpkg -x musl_*.deb musl

# as musl-gcc is GCC, it would tell of glibc's folders and of glibc's OpenMP
cat >cc <<'END'
#!/bin/sh
case "$*" in
-print-multiarch | --print-multiarch) echo x86_64-linux-musl ;;
*-fopenmp*) exit 1 ;;
*) exec musl-gcc "$@" ;;
esac
END
chmod +x cc
if [ ! -x "usr/bin/python$version" ]; then
    for archive in *.orig.tar.*; do
        tar xf "$archive"
    done
    (cd zlib-*/ && CC="$folder/cc" CFLAGS="-O2 -fPIC" ./configure --static --prefix="$folder/usr" &&
        make -s -j2 libz.a && make -s install) >zlib.log 2>&1
    (cd Python-*/ && sed -i 's/x86_64-linux-gnu$/x86_64-linux-musl/' configure &&
        ./configure -q CC="$folder/cc" OPT="-O1 -DNDEBUG" CPPFLAGS="-I$folder/usr/include" \
            LDFLAGS="-L$folder/usr/lib" PKG_CONFIG=false --prefix="$folder/usr" \
            --without-ensurepip --disable-test-modules && make -s -j2 && make -s install) \
        >python.log 2>&1
fi

rm -rf site wheel tests
pip install -q --target site --platform musllinux_1_2_x86_64 --only-binary=:all: \
    --python-version "$version" numpy pytest pytest-benchmark hypothesis
git clone -q "$source" wheel/source
# Debian's start files for musl have debug information
CC="$folder/cc" LDSHARED="$folder/cc -shared -Wl,--strip-debug" \
    SETUPTOOLS_EXT_SUFFIX=".cpython-${version/./}-x86_64-linux-musl.so" \
    pip wheel -q --no-build-isolation --no-deps -w wheel wheel/source
python -m zipfile -e wheel/*.whl site

# --argv0 is what Python takes for its own name, so that the Pythons it starts run so, too
cat >python <<END
#!/bin/sh
export PYTHONHOME="$folder/usr" PYTHONPATH="$folder/site"
exec "$folder/musl/usr/lib/ld-musl-x86_64.so.1" --argv0 "\$0" \
    "$folder/usr/bin/python$version" "\$@"
END
chmod +x python
mkdir tests
cd "$source"
cp -r tests docs README.md pyproject.toml "$folder/tests"
cd "$folder/tests"
"$folder/python" -P -m fastadam --require-compiled
"$folder/python" -P -m pytest -q -p no:cacheprovider "$@"
