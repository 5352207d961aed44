"""csrc/guards.h: a compiler that would give other bits is refused."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
X86 = platform.machine() in ("x86_64", "AMD64")

REORDERED = "other results under -ffast-math"
EXCESS = "float and double must be computed as such"
FORMAT = "must be binary32 and binary64 of IEEE 754"

FLAGS = [
    ("gcc", "-ffast-math", REORDERED),
    ("gcc", "-ffinite-math-only", REORDERED),
    ("gcc", "-funsafe-math-optimizations", REORDERED),
    ("gcc", "-freciprocal-math", REORDERED),
    ("gcc", "-fno-signed-zeros", REORDERED),
    ("clang", "-ffast-math", REORDERED),
    ("clang", "-ffinite-math-only", REORDERED),
]
if X86:
    FLAGS += [("gcc", "-mfpmath=387", EXCESS), ("clang", "-m32 -mno-sse", EXCESS)]

#: What another compiler could define: after float.h, whose own definitions it replaces.
DEFINITIONS = [
    ("__FAST_MATH__ 1", REORDERED),
    ("_M_FP_FAST 1", REORDERED),
    ("__ASSOCIATIVE_MATH__ 1", REORDERED),
    ("FLT_EVAL_METHOD 1", EXCESS),
    ("FLT_EVAL_METHOD 2", EXCESS),
    ("FLT_EVAL_METHOD -1", EXCESS),
    ("FLT_RADIX 16", FORMAT),
    ("FLT_MANT_DIG 53", FORMAT),
    ("DBL_MANT_DIG 24", FORMAT),
    ("float double", FORMAT),
    ("double float", FORMAT),
]


@pytest.fixture
def backend():
    """Compilers do not care which backend runs: once is enough."""


def compile_c(compiler, code, *flags):
    """The finished process of a compiler that makes assembly of `code`."""
    if not shutil.which(compiler) or (compiler == "gcc" and sys.platform == "darwin"):
        pytest.skip(f"no {compiler}")  # on macOS, gcc is another name of Clang
    if not CSRC.is_dir():
        pytest.skip("csrc/ is not beside the tests")
    return subprocess.run(
        [compiler, "-std=c11", "-O2", f"-I{CSRC}", *flags, "-S", "-o", "-", "-x", "c", "-"],
        input=code, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_right_flags_pass(compiler):
    result = compile_c(compiler, '#include "guards.h"\n', *WARNINGS)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(("compiler", "flags", "message"), FLAGS)
def test_wrong_flags_stop_the_build(compiler, flags, message):
    assert compile_c(compiler, "", *flags.split()).returncode == 0
    result = compile_c(compiler, '#include "guards.h"\n', *flags.split())
    assert result.returncode != 0
    assert message in result.stderr


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(("definition", "message"), DEFINITIONS)
def test_other_arithmetic_stops_the_build(compiler, definition, message):
    name = definition.split()[0]
    code = f'#include <float.h>\n#undef {name}\n#define {definition}\n#include "guards.h"\n'
    result = compile_c(compiler, code)
    assert result.returncode != 0
    assert message in result.stderr


def test_clang_fuses_nothing():
    code = "double f(double a, double b, double c) { return a * b + c; }\n"
    flags = ["-mfma"] if X86 else []
    fused = re.compile(r"\bv?fn?m(?:add|sub|la|ls)\w*")
    assert fused.search(compile_c("clang", code, *flags).stdout)
    assert not fused.search(compile_c("clang", '#include "guards.h"\n' + code, *flags).stdout)


def test_every_file_includes_them_first():
    if not CSRC.is_dir():
        pytest.skip("csrc/ is not beside the tests")
    files = sorted(CSRC.glob("*.c"))
    assert files
    for file in files:
        assert re.search(r"^#include (\S+)$", file.read_text(), re.M)[1] == '"guards.h"', file
