"""Check what a repaired wheel of fastadam holds, on any platform.

    python tools/check_wheel.py dist/*.whl

A wheel has both extensions, built for the Python and the platform of its tag. It brings the OpenMP
runtime on Linux and Windows, and none on macOS, where Apple's compiler has none. Besides these it
has Python files, stubs and what describes it, nothing else, and is smaller than 1.2 MB. On Linux
everything compiled is stripped. The exit status is 1 if something is wrong.
"""

import re
import struct
import sys
import zipfile
from pathlib import Path, PurePosixPath

LIMIT = 1_200_000  # bytes
EXTENSIONS = {"fastadam/_native", "fastadam/torch/_tensors"}
#: By the beginning of a platform tag: the folder of bundled libraries, and the OpenMP runtime.
BUNDLED = {
    "manylinux": ("fastadam.libs", "libgomp"),
    "musllinux": ("fastadam.libs", "libgomp"),
    "win": ("fastadam.libs", "vcomp140"),
    "macosx": ("fastadam/.dylibs", None),
}
COMPILED = (".so", ".pyd", ".dll", ".dylib")
SYMTAB = 2  # the type of an ELF section of symbols that a stripped file lacks


def is_compiled(name):
    return name.endswith(COMPILED) or ".so." in name


def is_stripped(elf):
    """Whether a 64-bit little-endian ELF file has no section of symbols but the dynamic ones."""
    (start,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    types = [struct.unpack_from("<I", elf, start + i * size + 4)[0] for i in range(count)]
    return SYMTAB not in types


def faults(path):
    """What is wrong with a wheel, in words."""
    tags = re.fullmatch(r"fastadam-[\w.+]+-cp(\d+)-cp\1(t?)-([\w.]+)\.whl", path.name)
    if not tags:
        return ["its name is not that of a wheel for one version of CPython"]
    platform = tags[3]
    if platform.startswith("linux"):
        return ["it was not repaired: its platform is plain Linux"]
    folder, runtime = next(
        (value for begin, value in BUNDLED.items() if platform.startswith(begin)), (None, None)
    )
    if folder is None:
        return [f"the platform {platform} is unknown"]
    found = []
    with zipfile.ZipFile(path) as archive:
        contents = {
            name: archive.read(name) for name in archive.namelist() if not name.endswith("/")
        }
    bundled = {name for name in contents if PurePosixPath(name).is_relative_to(folder)}
    extensions = {name for name in contents if is_compiled(name)} - bundled
    if path.stat().st_size >= LIMIT:
        found.append(f"it has {path.stat().st_size:,} bytes, and {LIMIT:,} or more are too many")
    if {name.partition(".")[0] for name in extensions} != EXTENSIONS:
        found.append(f"its extensions are {sorted(extensions)}")
    abi = f"{tags[1]}{tags[2]}"
    found += [f"{name} is for another Python" for name in extensions if not is_for(name, abi)]
    names = {PurePosixPath(name).name for name in bundled}
    runtimes = {name for name in names if runtime and name.startswith(runtime)}
    if runtime and not runtimes:
        found.append(f"it bundles no {runtime}")
    if names != runtimes:
        found.append(f"it bundles {sorted(names - runtimes)}")
    for name in contents.keys() - bundled - extensions:
        top = PurePosixPath(name).parts[0]
        if top.endswith(".dist-info") or name == "fastadam/py.typed":
            continue
        if top != "fastadam" or not name.endswith((".py", ".pyi")):
            found.append(f"{name} does not belong there")
    if "linux" in platform:
        found += [
            f"{name} is not stripped"
            for name in bundled | extensions
            if not is_stripped(contents[name])
        ]
    return found


def is_for(name, abi):
    """Whether an extension's name ends as that Python's do, such as ``.cpython-314t-darwin.so``."""
    return re.search(rf"\.(cpython-|cp){abi}[-.]", name) is not None


def main(paths):
    status = 0
    for path in map(Path, paths):
        found = faults(path)
        print(f"{path.name}: {'; '.join(found) or f'{path.stat().st_size:,} bytes, as it should'}")
        status |= bool(found)
    return status


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("no wheel was named")
    sys.exit(main(sys.argv[1:]))
