"""Optimizers for NumPy programs that run as several processes under MPI, by mpi4py.

`ZeroRedundancyOptimizer` spreads the state of an optimizer over the processes. A program is
run on N of them by ``mpiexec -n N python program.py``.
"""

try:
    import mpi4py  # noqa: F401 - to say what to install
except ImportError as error:
    raise ImportError("fastadam.mpi needs mpi4py: pip install mpi4py") from error

from fastadam.mpi._zero import ZeroRedundancyOptimizer

__all__ = ["ZeroRedundancyOptimizer"]
