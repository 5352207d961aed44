"""How many threads a step may use."""

from __future__ import annotations

import operator
import os
from typing import SupportsIndex

from fastadam import _backend


def set_num_threads(n: SupportsIndex) -> None:
    """Let large steps use that many threads.

    Parameters
    ----------
    n : int
        At least 1. It holds for the process, over ``FASTADAM_NUM_THREADS`` and
        ``OMP_NUM_THREADS``; without any of them OpenMP decides, which is one thread for
        each CPU that the process may run on. A limit set with threadpoolctl holds over it.

    Raises
    ------
    TypeError, ValueError
        `n` is not a positive integer.

    Notes
    -----
    Results do not depend on it, not in a single bit. Small steps use the calling
    thread alone, and so does a process that was forked after fastadam was
    imported: OpenMP's threads do not survive a fork. The NumPy backend
    always uses one thread.

    Examples
    --------
    >>> before = fastadam.get_num_threads()
    >>> fastadam.set_num_threads(1)
    >>> fastadam.get_num_threads()
    1
    >>> fastadam.set_num_threads(before)
    """
    count = operator.index(n)
    if not 1 <= count < 2**15:
        raise ValueError(f"the number of threads must be at least 1, found {count}")
    native = _backend.native()
    if native:
        native.set_num_threads(count)


def get_num_threads() -> int:
    """The number of threads that a large step would use now.

    Returns
    -------
    int
        1 on the NumPy backend and in builds without OpenMP.

    Examples
    --------
    >>> fastadam.get_num_threads() >= 1
    True
    """
    native = _backend.native()
    return native.get_num_threads() if native else 1


def _read_environment() -> None:
    text = os.environ.get("FASTADAM_NUM_THREADS", "")
    if not text:
        return
    try:
        set_num_threads(int(text))
    except ValueError:
        raise ImportError(f"FASTADAM_NUM_THREADS={text}: expected a positive integer") from None


_read_environment()
