"""The Adam optimizer for NumPy arrays: in place, exact to the bit, at the machine's limit."""

from fastadam._config import show_config
from fastadam._threads import get_num_threads, set_num_threads
from fastadam._version import __version__
from fastadam.functional import adam_step
from fastadam.optimizer import Adam, AdamW

__all__ = [
    "Adam",
    "AdamW",
    "__version__",
    "adam_step",
    "get_num_threads",
    "set_num_threads",
    "show_config",
]
