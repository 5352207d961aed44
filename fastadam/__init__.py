"""The Adam optimizer for NumPy arrays: in place, exact to the bit, at the machine's limit.

Begin with `Adam`: make it with your arrays, then give their gradients to its `step`.

>>> import numpy as np
>>> import fastadam
>>> w = np.zeros(3)
>>> optimizer = fastadam.Adam(w, lr=0.1)
>>> for _ in range(500):
...     optimizer.step(2 * (w - 1))  # the gradient of ((w - 1) ** 2).sum()
>>> w.round(3)
array([1., 1., 1.])

What else there is:

- `AdamW`, `NAdam`, `RAdam`, `Adamax`, `RMSprop` and `SGD`, used in the same way, and so are
  `ADOPT`, `AdamWScheduleFree`, `Lion` and `AdEMAMix`, which torch.optim does not have;
- `schedules`, learning rates that change from step to step;
- `RowGrad`, the gradient of some rows of a table;
- `adam_step`, one step on arrays without an optimizer object;
- `show_config`, `set_num_threads` and `get_num_threads`;
- `Optimizer`, `Schedule`, `ArrayTree` and `GradTree`, for annotations;
- adapters, each imported when it is first asked for, and only where its package is installed:
  `fastadam.torch` (PyTorch's optimizers for tensors on the CPU), `fastadam.sklearn`
  (scikit-learn's perceptrons), `fastadam.scipy` (a method of ``scipy.optimize.minimize``) and
  `fastadam.mpi` (optimizers that are spread over the processes of an MPI program).

``help(fastadam.Adam)`` has all options, the rule and the papers.
"""

import importlib
from typing import TYPE_CHECKING

from fastadam import _backend, family, schedules
from fastadam._config import show_config
from fastadam._hyper import Schedule
from fastadam._rows import RowGrad
from fastadam._threads import get_num_threads, set_num_threads
from fastadam._types import ArrayTree, GradTree
from fastadam._version import __version__
from fastadam.family import *  # noqa: F403 - a new member is exported by its own file
from fastadam.functional import adam_step
from fastadam.optimizer import Optimizer

__all__ = [
    "ArrayTree",
    "GradTree",
    "Optimizer",
    "RowGrad",
    "Schedule",
    "__version__",
    "adam_step",
    "get_num_threads",
    "schedules",
    "set_num_threads",
    "show_config",
]
__all__ += family.__all__

if TYPE_CHECKING:
    from fastadam import mpi as mpi
    from fastadam import scipy as scipy
    from fastadam import sklearn as sklearn
    from fastadam import torch as torch
else:  # a type checker would take every name for one of these

    def __getattr__(name):
        if name not in ("mpi", "scipy", "sklearn", "torch"):
            raise AttributeError(f"module 'fastadam' has no attribute {name!r}")
        try:
            return importlib.import_module(f"fastadam.{name}")
        except ImportError as error:  # its message says what to install
            raise AttributeError(str(error)) from error


_backend.warn_of_numpy()
