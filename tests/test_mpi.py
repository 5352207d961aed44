"""fastadam.mpi under mpiexec; mpi_programs.py and its neighbours have what the processes do.

FASTADAM_TEST_KILLS is how many ranks are killed while they save. With FASTADAM_TEST_LARGE=1 there
is a test of more numbers than 32 bits count.
"""

import os
import pathlib
import signal
import time

import numpy as np
import pytest
from members import NAMES
from mpiexec import environment_of, on_ranks, start_on_ranks

import fastadam

KILLS = int(os.environ.get("FASTADAM_TEST_KILLS", "3"))
PROGRAMS = pathlib.Path(__file__).parent / "mpi_programs.py"


@pytest.fixture
def run(backend):
    """Runs a program on so many ranks, with this backend."""
    return lambda ranks, *arguments: on_ranks(
        ranks, PROGRAMS, *arguments, **environment_of(backend)
    )


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


def test_arrays_of_several_dtypes(run):
    run(2, "dtypes")


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(("count", "clipping"), [("200", "clipped"), ("40", "unclipped")])
def test_many_steps(run, ranks, count, clipping):
    run(ranks, "steps", count, clipping)


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="asks Linux")
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_has_its_share_of_the_state_in_memory(run, ranks):
    run(ranks, "memory")


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_errors_are_those_of_all_ranks(run, ranks):
    run(ranks, "errors")


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_that_do_not_do_the_same(run, tmp_path, ranks):
    run(ranks, "misuse", str(tmp_path / "x.ckpt"))


@pytest.mark.parametrize("program", ["untouched", "overflows", "rows", "many"])
def test_on_two_ranks(run, program):
    run(2, program)


@pytest.mark.parametrize(
    "program", ["schedule_free", "empty_parts", "columns", "damaged", "overwritten"]
)
def test_files_on_two_ranks(run, tmp_path, program):
    run(2, program, str(tmp_path / "x.ckpt"))


@pytest.mark.parametrize("program", ["no_library", "other_arrays"])
def test_safetensors_on_two_ranks(run, tmp_path, program):
    if program == "other_arrays":
        pytest.importorskip("safetensors")
    run(2, program, str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("kind", "name", "dtype", "state_dtype", "ending"),
    [
        ("checkpoint", "NAdam", "float32", "None", "ckpt"),
        ("checkpoint", "NAdam", "complex64", "bfloat16", "ckpt"),
        ("checkpoint", "NAdam", "float16", "int8", "safetensors"),
        ("checkpoint", "SGD", "float16", "None", "ckpt"),
        ("parts_checkpoint", "NAdam", "float32", "None", "ckpt"),
        ("parts_checkpoint", "NAdam", "complex64", "bfloat16", "safetensors"),
        ("parts_checkpoint", "NAdam", "float32", "int8", "ckpt"),
    ],
)
def test_checkpoints_know_no_ranks(run, tmp_path, kind, name, dtype, state_dtype, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
        pytest.importorskip("ml_dtypes")
    path = str(tmp_path / f"x.{ending}")
    run(3, kind, path, "save", name, dtype, state_dtype)
    for ranks in (1, 2, 4):
        run(ranks, kind, path, "load", name, dtype, state_dtype)


if "FASTADAM_TEST_LARGE" in os.environ:  # which takes 16 GB of memory and 11 of disk

    def test_more_numbers_than_32_bits_count(backend, tmp_path):
        arguments = PROGRAMS, "large", tmp_path / "x.ckpt"
        on_ranks(2, *arguments, seconds=900, **environment_of(backend))


@pytest.mark.parametrize("ranks", [2, 3])
def test_files_that_one_rank_cannot_write_or_read(run, tmp_path, ranks):
    run(ranks, "refused_files", str(tmp_path / "x.ckpt"))


def test_a_killed_rank_leaves_the_old_checkpoint_or_the_new(backend, tmp_path):
    """They are killed at random moments of a save, or just before or after it."""
    path, rng = tmp_path / "x.ckpt", np.random.default_rng()
    for number in range(KILLS):
        ranks = 2 + number % 3
        with start_on_ranks(ranks, PROGRAMS, "saves", path, **environment_of(backend)) as job:
            pids = list(map(int, job.stdout.readline().split()))
            job.stdout.readline()
            begin = time.monotonic()
            job.stdout.readline()
            duration = time.monotonic() - begin
            time.sleep(rng.uniform(0, 2 * duration))
            os.kill(rng.choice(pids), signal.SIGKILL)
            saved = 2 + job.stdout.read().count("saved")
        w = np.zeros(1 << 20, np.float32)
        alone = fastadam.Adam(w)
        alone.load(path)
        assert alone.finished_steps in (saved, saved + 1)
        assert (w == alone.finished_steps).all()


@pytest.mark.parametrize(
    ("ranks", "name", "state_dtype"),
    [
        (1, "AdamW", "None"),
        (2, "Adam", "None"),
        (3, "NAdam", "None"),
        (3, "AdEMAMix", "bfloat16"),
        (3, "AdamWScheduleFree", "None"),
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
