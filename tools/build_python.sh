#!/usr/bin/env bash
# tools/build_python.sh FOLDER: build and install there a Python without a GIL, which Debian has
# only as sources. Takes some 5 minutes. Needs apt-get and its list of Debian's packages, gcc, make,
# and the packages zlib1g-dev, libssl-dev and libffi-dev.
set -euo pipefail
folder=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# A state of apt's own, so that the machine's knows nothing of other releases.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -1)
mkdir -p lists/partial cache/archives/partial etc/{apt.conf,preferences}.d
touch status
for release in sid trixie; do
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main"
done >etc/sources.list
cat >apt.conf <<END
Dir::State "$work";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Dir::Etc "$work/etc";
Dir::Etc::sourceparts "/dev/null";
APT::Sandbox::User "root";
END
export APT_CONFIG=$work/apt.conf
apt-get -qq update || true # a mirror that is behind has trixie all the same

# The newest first; mirrors do not always have all that is in their lists.
apt-cache showsrc --only-source python3.14 python3.13 |
    awk '/^Package:/ { name = $2 } /^Version:/ { print name "=" $2 }' | sort -Vru >versions
while read -r version; do
    echo "$version"
    if apt-get -qq source --download-only "$version"; then
        break
    fi
done <versions
tar -xf python3.*.orig.tar.xz
mkdir build
cd build
../Python-3.*/configure -q --disable-gil --disable-test-modules --with-ensurepip=install \
    --prefix="$folder"
make -s -j"$(nproc)"
make -s install
