"""Optimizers for NumPy programs that run as several processes under MPI, by mpi4py.

`ZeroRedundancyOptimizer` is for parameters that every process has, and spreads their state.
`DistributedOptimizer` is for parameters that are themselves spread. A program is run on N
processes by ``mpiexec -n N python program.py``.
"""

try:
    import mpi4py  # noqa: F401 - to say what to install
except ImportError as error:
    raise ImportError("fastadam.mpi needs mpi4py: pip install mpi4py") from error

from fastadam.mpi._distributed import DistributedOptimizer
from fastadam.mpi._zero import ZeroRedundancyOptimizer

__all__ = ["DistributedOptimizer", "ZeroRedundancyOptimizer"]
