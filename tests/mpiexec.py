"""Runs a program on several ranks."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest


def environment_of(backend):
    """The variables by which another process has this backend."""
    return {"FASTADAM_BACKEND": "numpy"} if backend == "numpy" else {"FASTADAM_ISA": backend}


def start_on_ranks(ranks, *arguments, **environment):
    """Start Python with these arguments on so many ranks; without MPI, skip the test."""
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=f"{pathlib.Path(sys.executable).parent}:{os.defpath}")
    if mpiexec is None:
        pytest.skip("mpiexec is not installed")
    environment = {
        **os.environ, **environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)
    }  # fmt: skip
    command = [mpiexec, "-n", str(ranks), sys.executable, "-P", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def on_ranks(ranks, *arguments, seconds=60, **environment):
    """Run Python with these arguments on so many ranks, which must end well."""
    with start_on_ranks(ranks, *arguments, **environment) as job:
        try:
            output, errors = job.communicate(timeout=seconds)
        finally:
            job.kill()
    assert job.returncode == 0, f"{output}\n{errors}"
