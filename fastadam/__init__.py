"""The Adam optimizer for NumPy arrays: in place, exact to the bit, at the machine's limit."""

from fastadam import _backend, family, schedules
from fastadam._config import show_config
from fastadam._rows import RowGrad
from fastadam._threads import get_num_threads, set_num_threads
from fastadam._version import __version__
from fastadam.family import *  # noqa: F403 - a new member is exported by its own file
from fastadam.functional import adam_step

__all__ = [
    *family.__all__,
    "RowGrad",
    "__version__",
    "adam_step",
    "get_num_threads",
    "schedules",
    "set_num_threads",
    "show_config",
]

_backend.warn_of_numpy()
