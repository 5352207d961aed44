"""fastadam.mpi under mpiexec; mpi_programs.py has what the processes do."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from members import NAMES

PROGRAMS = pathlib.Path(__file__).parent / "mpi_programs.py"


@pytest.fixture
def run(backend):
    """Runs a program on so many ranks, with this backend; it must end well within 10 s."""
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=f"{pathlib.Path(sys.executable).parent}:{os.defpath}")
    if mpiexec is None:
        pytest.skip("mpiexec is not installed")

    def run(ranks, *arguments):
        chosen = {"FASTADAM_BACKEND": "numpy"} if backend == "numpy" else {"FASTADAM_ISA": backend}
        command = [mpiexec, "-n", str(ranks), sys.executable, "-P", PROGRAMS, *arguments]
        environment = {
            **os.environ, **chosen, "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(PROGRAMS.parent), *sys.path[1:]]),
        }  # fmt: skip
        begin = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return time.monotonic() - begin

    return run


@pytest.mark.parametrize("name", NAMES)
def test_members_have_the_bits_of_one_process(run, name):
    run(3, "bits", name, "float32", "None")


@pytest.mark.parametrize(
    ("ranks", "dtype", "state_dtype"),
    [
        (1, "float32", "int8"),
        (2, "float32", "int8"),
        (4, "float32", "bfloat16"),
        (2, "float64", "None"),
        (2, "float16", "bfloat16"),
        (3, "bfloat16", "int8"),
    ],
)
def test_dtypes_have_the_bits_of_one_process(run, ranks, dtype, state_dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    run(ranks, "bits", "Adam", dtype, state_dtype)


@pytest.mark.parametrize("ranks", [2, 4])
def test_many_steps(run, ranks):
    run(ranks, "steps", "200")


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_errors_are_those_of_all_ranks(run, ranks):
    run(ranks, "errors")


def test_checkpoints_know_no_ranks(run, tmp_path):
    path = str(tmp_path / "x.ckpt")
    run(3, "checkpoint", path, "save")
    for ranks in (1, 2, 4):
        run(ranks, "checkpoint", path, "load")


@pytest.mark.parametrize(
    ("ranks", "name", "state_dtype"),
    [
        (1, "AdamW", "None"),
        (2, "Adam", "None"),
        (3, "NAdam", "None"),
        (3, "AdEMAMix", "bfloat16"),
        (2, "Adam", "int8"),
        (4, "Lion", "int8"),
    ],
)
def test_parts_have_the_bits_of_one_process(run, ranks, name, state_dtype):
    run(ranks, "parts", name, state_dtype)


def test_cuts(run):
    run(1, "cuts")


def test_examples_and_what_is_refused(run):
    run(1, "examples")
    run(2, "refusals")
