"""fastadam.mpi under mpiexec; mpi_programs.py has what the processes do."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from members import NAMES

import fastadam
from fastadam import _backend
from fastadam._numpy import NORM_BLOCK

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


@pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)
def test_cuts():
    """All numbers are in one piece; blocks are whole, and arrays of 4,096 numbers have no piece
    with fewer."""
    cuts = pytest.importorskip("fastadam.mpi._cuts")
    some = [0, 1, 5, 4095, 4096, 4097, 8191, 8192, 12287, 100_000, 70_000]
    for ranks in (1, 2, 3, 5):
        for first in range(len(some)):
            for n in (1, 3, len(some)):
                for most in (1, 5000, 50_000, 10**9):
                    sizes = (some[first:] + some[:first])[:n]
                    places = [0] * n
                    for cut in cuts.cut(range(n), sizes, ranks, most):
                        assert len(cut.pieces) == ranks
                        assert sum(cut.counts) > 0
                        for segment in (s for piece in cut.pieces for s in piece):
                            i, start, stop = segment
                            assert start == places[i]
                            assert start % NORM_BLOCK == 0
                            assert stop == sizes[i] or stop % NORM_BLOCK == 0
                            assert segment.size >= min(sizes[i], NORM_BLOCK) > 0
                            places[i] = stop
                    assert places == sizes


@pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)
def test_pieces_are_of_one_size():
    cuts = pytest.importorskip("fastadam.mpi._cuts")
    for cut in cuts.cut([0], [16_777_216], 4, 1 << 20):
        assert max(cut.counts) - min(cut.counts) <= NORM_BLOCK


def test_what_is_refused():
    mpi = pytest.importorskip("fastadam.mpi")
    import copy

    import numpy as np

    opt = mpi.ZeroRedundancyOptimizer(np.ones(3), fastadam.Adam)
    with pytest.raises(TypeError, match="use state_dict or save"):
        copy.deepcopy(opt)
    with pytest.raises(TypeError, match="give all param groups to the constructor"):
        opt.add_param_group({"params": np.ones(2)})
    with pytest.raises(ValueError, match="there is no average"):
        opt.averaged_params()
