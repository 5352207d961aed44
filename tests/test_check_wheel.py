"""tools/check_wheel.py finds what is wrong with a wheel."""

import importlib.util
import re
import struct
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "check_wheel.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="tools/ is not beside the tests")

LINUX = "fastadam-1.0-cp314-cp314t-manylinux_2_28_x86_64.manylinux_2_34_x86_64.whl"
MUSL = "fastadam-1.0-cp311-cp311-musllinux_1_2_aarch64.whl"
WINDOWS = "fastadam-1.0-cp312-cp312-win_arm64.whl"
MACOS = "fastadam-1.0-cp313-cp313-macosx_11_0_arm64.whl"
NATIVE = "fastadam/_native.cpython-314t-x86_64-linux-gnu.so"


@pytest.fixture
def backend():
    """Wheels are files: once is enough."""


@pytest.fixture(scope="module")
def check_wheel():
    spec = importlib.util.spec_from_file_location("check_wheel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def elf(*types):
    """A file of sections of these types, with nothing in them."""
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    struct.pack_into("<Q", header, 40, 64)
    struct.pack_into("<HH", header, 58, 64, len(types))
    return bytes(header) + b"".join(struct.pack("<II56x", 0, kind) for kind in types)


STRIPPED, WITH_SYMBOLS = elf(0, 1, 11), elf(0, 1, 11, 2)


def contents(suffix, library):
    return {
        "fastadam/__init__.py": b"",
        "fastadam/py.typed": b"",
        "fastadam/_native.pyi": b"",
        f"fastadam/_native{suffix}": STRIPPED,
        f"fastadam/torch/_tensors{suffix}": STRIPPED,
        "fastadam-1.0.dist-info/METADATA": b"",
        **({library: STRIPPED} if library else {}),
    }


GOOD = {
    LINUX: contents(".cpython-314t-x86_64-linux-gnu.so", "fastadam.libs/libgomp-1f.so.1.0.0"),
    MUSL: contents(".cpython-311-aarch64-linux-musl.so", "fastadam.libs/libgomp-2a.so.1.0.0"),
    WINDOWS: contents(".cp312-win_arm64.pyd", "fastadam.libs/vcomp140-3b.dll"),
    MACOS: contents(".cpython-313-darwin.so", None),
}


def faults(check_wheel, folder, name, files):
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return check_wheel.faults(folder / name)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_wheel(check_wheel, tmp_path, name):
    assert faults(check_wheel, tmp_path, name, GOOD[name]) == []
    assert check_wheel.main([tmp_path / name]) == 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (LINUX, {"fastadam/_native.c": b""}, "_native.c does not belong there"),
        (LINUX, {"fastadam/_native.pyx": b""}, "_native.pyx does not belong there"),
        (LINUX, {"fastadam/_native.pxd": b""}, "_native.pxd does not belong there"),
        (LINUX, {"tests/test_bits.py": b""}, "test_bits.py does not belong there"),
        (LINUX, {"fastadam/_not_built.txt": b""}, "_not_built.txt does not belong there"),
        (LINUX, {NATIVE: None}, "its extensions are"),
        (LINUX, {NATIVE: WITH_SYMBOLS}, "_native.* is not stripped"),
        (LINUX, {"fastadam.libs/libgomp-1f.so.1.0.0": None}, "bundles no libgomp"),
        (LINUX, {"fastadam.libs/libgomp-1f.so.1.0.0": WITH_SYMBOLS}, "libgomp.* is not stripped"),
        (LINUX, {"fastadam.libs/libquadmath-1f.so.0": STRIPPED}, "it bundles .*libquadmath"),
        (LINUX, {"fastadam/__init__.py": bytes(1_200_000)}, "are too many"),
        (WINDOWS, {"fastadam.libs/vcomp140-3b.dll": None}, "bundles no vcomp140"),
        (MACOS, {"fastadam/.dylibs/libomp.dylib": b""}, "it bundles .*libomp"),
    ],
)
def test_a_fault(check_wheel, tmp_path, name, change, message):
    files = {path: data for path, data in {**GOOD[name], **change}.items() if data is not None}
    (fault,) = faults(check_wheel, tmp_path, name, files)
    assert re.search(message, fault), fault
    assert check_wheel.main([tmp_path / name]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (LINUX.replace("manylinux_2_28_x86_64.manylinux_2_34_x86_64", "linux_x86_64"), "repaired"),
        (LINUX.replace("cp314t", "abi3"), "one version of CPython"),
        ("fastadam-1.0-py3-none-any.whl", "one version of CPython"),
        (MACOS.replace("macosx", "amiga"), "unknown"),
    ],
)
def test_a_name(check_wheel, tmp_path, name, message):
    (fault,) = faults(check_wheel, tmp_path, name, {})
    assert message in fault


def test_another_python(check_wheel, tmp_path):
    name = LINUX.replace("cp314-cp314t", "cp314-cp314")
    found = faults(check_wheel, tmp_path, name, GOOD[LINUX])
    assert len(found) == 2
    assert all("is for another Python" in fault for fault in found)
