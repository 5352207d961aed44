"""What the compiler made of csrc/: packed square roots, and nothing fused but in these."""

import re
import shutil
import subprocess

import pytest

from fastadam import _backend

WIDTH = {
    "sse2": "xmm",
    "avx2": "ymm",
    "avx512": "zmm",
    "avx512_estimate": "zmm",
    "neon": r"v\d+\.",
}
FUSED_A_ROOT = {"avx512_estimate_float32": 5, "avx512_estimate_float64": 7}  # csrc/root.h
SETS = list(_backend.describe()["instruction_sets"])


@pytest.fixture(scope="module")
def kernels():
    """The disassembly of each function of the extension, by name."""
    if not SETS:
        pytest.skip("no extension")
    if not shutil.which("objdump"):
        pytest.skip("no objdump")
    from fastadam import _native

    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", _native.__file__],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    blocks = re.findall(r"^[0-9a-f]+ <([\w.@]+)>:\n(.*?)(?=\n\n|\Z)", text, re.M | re.S)
    return dict(blocks)


@pytest.mark.parametrize("rule", ["adam", "nadam", "radam", "rmsprop"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SETS)
def test_square_roots_are_packed_and_wide(kernels, name, dtype, rule):
    suffix = "" if name == "neon" else "ps" if dtype == "float32" else "pd"
    code = "".join(
        block
        for function, block in kernels.items()
        if function.startswith(f"fa_{rule}_{name}_{dtype}")
    )
    assert re.search(rf"sqrt{suffix}\s.*{WIDTH[name]}", code), "no packed square root"
    assert re.search(rf"div{suffix}\s.*{WIDTH[name]}", code), "no packed division"


def test_nothing_is_fused_but_in_roots_from_estimates(kernels):
    seen = set()
    for function, code in kernels.items():
        fused = len(re.findall(r"\bv?fn?m(?:add|sub|la|ls)\w*", code))
        a_root = next((n for kind, n in FUSED_A_ROOT.items() if kind in function), 0)
        assert fused == a_root * len(re.findall(r"\bvrsqrt14p[sd]", code)), function
        seen.update(name for name in SETS if function.startswith(f"fa_adam_{name}_float"))
    assert seen == set(SETS)


def test_there_is_no_debug_information(kernels):
    from fastadam import _native

    command = ["objdump", "--section-headers", _native.__file__]
    sections = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "debug_info" not in sections
