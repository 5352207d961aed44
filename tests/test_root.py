"""The roots of csrc/root.h are those of the CPU: tests/c/root.c is compiled and run.

With FASTADAM_TEST_ROOT=full it tries all that docs/square-root.md counts on, for some minutes.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sysconfig

import pytest

FOLDER = pathlib.Path(__file__).parent
HEADER = FOLDER.parent / "csrc" / "root.h"
# as in setup.py; the program asks itself whether the CPU has the set
FLAGS = [
    "-O3",
    "-std=c11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-mavx512f",
]


@pytest.fixture(autouse=True)
def backend():
    """Once is enough: no backend is asked."""


@pytest.fixture(scope="module")
def compiler():
    if not sysconfig.get_platform().endswith(("x86_64", "amd64")):
        pytest.skip("csrc/root.h is for x86-64")
    if not HEADER.exists():
        pytest.skip(f"no {HEADER}")
    pythons_own = shlex.split(sysconfig.get_config_var("CC") or "cc")
    for command in (pythons_own, ["cc"], ["gcc"], ["clang"]):
        if shutil.which(command[0]):
            return [*command, *FLAGS, "-Wall", "-Wextra", "-Werror"]
    pytest.skip("no C compiler")


def test_the_roots_are_those_of_the_cpu(compiler, tmp_path):
    program = tmp_path / "root"
    sources = [FOLDER / "c" / "root.c", "-o", program, "-lm"]
    built = subprocess.run([*compiler, *sources], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    mode = ["--full"] if os.environ.get("FASTADAM_TEST_ROOT") == "full" else []
    run = subprocess.run([program, *mode], capture_output=True, text=True)
    print(run.stdout)
    assert run.returncode == 0, run.stdout
    assert "\n0 roots were wrong" in run.stdout or "this CPU lacks" in run.stdout
