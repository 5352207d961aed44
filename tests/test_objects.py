"""What the compiler made of the kernels: packed square roots, and nothing fused."""

import re
import shutil
import subprocess

import pytest

from fastadam import _backend

WIDTH = {"sse2": "xmm", "avx2": "ymm", "avx512": "zmm", "neon": r"v\d+\."}
SETS = list(_backend.describe()["instruction_sets"])


@pytest.fixture(scope="module")
def kernels():
    """The disassembly of each function of csrc/, by name."""
    if not SETS:
        pytest.skip("no extension")
    if not shutil.which("objdump"):
        pytest.skip("no objdump")
    from fastadam import _native

    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", _native.__file__],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    blocks = re.findall(r"^[0-9a-f]+ <fa_([\w.]+)>:\n(.*?)(?=\n\n|\Z)", text, re.M | re.S)
    return dict(blocks)


@pytest.mark.parametrize("rule", ["adam", "nadam", "radam", "rmsprop"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SETS)
def test_square_roots_are_packed_and_wide(kernels, name, dtype, rule):
    suffix = "" if name == "neon" else "ps" if dtype == "float32" else "pd"
    code = "".join(
        block
        for function, block in kernels.items()
        if function.startswith(f"{rule}_{name}_{dtype}")
    )
    assert re.search(rf"sqrt{suffix}\s.*{WIDTH[name]}", code), "no packed square root"
    assert re.search(rf"div{suffix}\s.*{WIDTH[name]}", code), "no packed division"


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_fused(kernels, name):
    found = {n: re.findall(r"\bv?fn?m(?:add|sub|la|ls)\w*", code) for n, code in kernels.items()}
    assert any(n.endswith(f"{name}_float32") for n in found)
    assert not any(found.values()), found
