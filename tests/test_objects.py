"""What the compiler made of csrc/: packed square roots, and nothing fused but in these."""

import platform
import re
import shutil
import subprocess
import sys

import pytest

from fastadam import _backend

X86_WIDTH = {"sse2": "xmm", "avx2": "ymm", "avx512": "zmm", "avx512_estimate": "zmm"}
FUSED_A_ROOT = {"avx512_estimate_float32": 5, "avx512_estimate_float64": 7}  # csrc/root.h
SETS = list(_backend.describe()["instruction_sets"])
# on an emulated CPU the one that knows it
OBJDUMP = shutil.which(f"{platform.machine()}-linux-gnu-objdump") or shutil.which("objdump")


def objdump(*options):
    """What it says of the extension."""
    if not SETS:
        pytest.skip("no extension")
    if sys.platform == "win32":
        pytest.skip("MSVC writes no symbols into an extension")
    if not OBJDUMP:
        pytest.skip("no objdump")
    from fastadam import _native

    command = [OBJDUMP, *options, _native.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def kernels():
    """The disassembly of each function of the extension, by name."""
    if sys.platform == "darwin":
        pytest.skip("macOS's objdump writes instructions in another way")
    if "no symbols" in objdump("--syms"):
        pytest.skip("stripped, as wheels are")
    text = objdump("-d", "--no-show-raw-insn")
    blocks = re.findall(r"^[0-9a-f]+ <([\w.@]+)>:\n(.*?)(?=\n\n|\Z)", text, re.M | re.S)
    return dict(blocks)


def packed(operation, name, dtype):
    """What the instruction that does it for a whole register looks like."""
    is_float32 = dtype == "float32"
    if name == "neon":
        return rf"\bf{operation}\s+v\d+\.{'4s' if is_float32 else '2d'}"
    return rf"\bv?{operation}p{'s' if is_float32 else 'd'}\s.*{X86_WIDTH[name]}"


@pytest.mark.parametrize("rule", ["adam", "nadam", "radam", "rmsprop"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SETS)
def test_square_roots_are_packed_and_wide(kernels, name, dtype, rule):
    code = "".join(
        block
        for function, block in kernels.items()
        if function.startswith(f"fa_{rule}_{name}_{dtype}")
    )
    for operation in ("sqrt", "div"):
        assert re.search(packed(operation, name, dtype), code), f"no packed {operation}"


def test_nothing_is_fused_but_in_roots_from_estimates(kernels):
    seen = set()
    for function, code in kernels.items():
        fused = len(re.findall(r"\bv?fn?m(?:add|sub|la|ls)\w*", code))
        a_root = next((n for kind, n in FUSED_A_ROOT.items() if kind in function), 0)
        assert fused == a_root * len(re.findall(r"\bvrsqrt14p[sd]", code)), function
        seen.update(name for name in SETS if function.startswith(f"fa_adam_{name}_float"))
    assert seen == set(SETS)


def test_there_is_no_debug_information():
    assert "debug_info" not in objdump("--section-headers")
