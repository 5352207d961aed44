"""How many threads a step may use."""

from __future__ import annotations

import math
import operator
import os
from contextlib import suppress
from pathlib import Path
from typing import SupportsIndex

from fastadam import _backend

#: What asked for a number of threads, in words; None if nothing did.
asked_by: str | None = None


def set_num_threads(n: SupportsIndex) -> None:
    """Let large steps use that many threads.

    Parameters
    ----------
    n : int
        At least 1. It holds for the process, over ``FASTADAM_NUM_THREADS`` and
        ``OMP_NUM_THREADS``; without any of them it is one thread for each CPU that the
        process may run on, and on Linux not more than its cgroup's quota of CPU time
        allows. A limit set with threadpoolctl holds over it.

    Raises
    ------
    TypeError, ValueError
        `n` is not a positive integer.

    Notes
    -----
    Results do not depend on it, not in a single bit. Small steps use the calling
    thread alone. So do large steps for a while after one that took longer with several
    threads than it would have with one, because other programs had the CPUs. A process
    that was forked after fastadam was imported has one thread: OpenMP's threads do not
    survive a fork. The NumPy backend always uses one thread.

    Examples
    --------
    >>> import fastadam
    >>> before = fastadam.get_num_threads()
    >>> fastadam.set_num_threads(1)
    >>> fastadam.get_num_threads()
    1
    >>> fastadam.set_num_threads(before)
    """
    global asked_by
    count = operator.index(n)
    if not 1 <= count < 2**15:
        raise ValueError(f"the number of threads must be at least 1, found {count}")
    native = _backend.native()
    if native:
        native.set_num_threads(count)
        asked_by = f"set_num_threads({count}) was called"


def get_num_threads() -> int:
    """The number of threads that a large step would use now.

    Returns
    -------
    int
        1 on the NumPy backend and in builds without OpenMP.

    Examples
    --------
    >>> import fastadam
    >>> fastadam.get_num_threads() >= 1
    True
    """
    native = _backend.native()
    return native.get_num_threads() if native else 1


def cpu_quota(root: Path = Path("/")) -> float:
    """How many CPUs' time Linux leaves the process: the least quota of its control groups.

    Infinity where there is none. A container with two CPUs of 64 is such a group. More threads
    than that would be stopped for the rest of each tenth of a second.
    """
    try:
        own = (root / "proc/self/cgroup").read_text(errors="surrogateescape").strip()
    except OSError:
        return math.inf
    if not own.startswith("0::/") or "\n" in own:  # not version 2 of cgroups alone
        return math.inf
    mount = root / "sys/fs/cgroup"
    group = mount / own[4:]
    quotas = [math.inf]
    for folder in (group, *group.parents):
        with suppress(OSError, ValueError):  # the outermost group has no such file
            time, period = (folder / "cpu.max").read_text().split()
            quotas.append(int(time) / int(period))  # or time is "max"
        if folder == mount:
            break
    return min(quotas)


def _begin() -> None:
    global asked_by
    text = os.environ.get("FASTADAM_NUM_THREADS", "")
    if not text:
        if "OMP_NUM_THREADS" not in os.environ and (quota := cpu_quota()) < get_num_threads():
            set_num_threads(max(1, int(quota)))
            asked_by = f"the process's control group has the time of {quota:.3g} CPUs"
        return
    try:
        set_num_threads(int(text))
        asked_by = f"FASTADAM_NUM_THREADS={text} is set"
    except ValueError:
        raise _backend.refused(
            f"FASTADAM_NUM_THREADS={text}: expected a positive integer"
        ) from None


_begin()
