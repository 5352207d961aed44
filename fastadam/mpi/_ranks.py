"""What all ranks do together, or none: a call whose errors reach everybody."""

from __future__ import annotations

import itertools
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn, TypeVar

import numpy as np
from mpi4py import MPI

from fastadam._guard import PAUSED

Result = TypeVar("Result")
SHOWN = 200  # letters of the settings, where they differ
#: Errors that keep their class when they are raised on other ranks.
CLASSES = {
    error.__name__: error
    for error in (
        FileNotFoundError,
        ImportError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    )
}


#: Under which a communicator has the duplicates that were made of it.
_key: int | None = None


class Ranks:
    """The processes that share an optimizer.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Of which a duplicate is used, so that messages do not meet others'. None: COMM_WORLD.

    Notes
    -----
    MPI has some 2,000 communicators. To free one is a call of all ranks, but each collects its
    garbage at another time. So those of optimizers that are gone on all ranks are freed when the
    next duplicate is made.
    """

    def __init__(self, comm: Any = None) -> None:
        comm = MPI.COMM_WORLD if comm is None else comm
        duplicates = _duplicates_of(comm)
        _free_unused(comm, duplicates)
        self.comm = comm.Dup()
        duplicates.append((weakref.ref(self), self.comm))
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    def agree(self, call: str, error: Exception | None, settings: Any = None) -> None:
        """Go on if all ranks are here and none has an error; else all of them raise.

        One message of a few bytes, whatever a rank is about to do, so that no rank waits in
        another call for one that has given up.

        Parameters
        ----------
        call : str
            What this rank was called for.
        error : Exception or None
            What keeps this rank from it.
        settings : object
            With what; its `repr` must be the same on all ranks.
        """
        known = [zlib.crc32(repr(part).encode()) for part in (call, settings)]
        own = np.array([error is not None, *known, *(-word for word in known)], np.int64)
        most = np.empty_like(own)
        self.comm.Allreduce(own, most, MPI.MAX)
        if most[0] or (most[1:3] != -most[3:5]).any():
            self._raise(call, error, settings)

    def refuse(self, call: str, error: Exception) -> NoReturn:
        """Let an error of this rank become one of all."""
        self.agree(call, error)
        raise error

    def together(self, call: str, what: Callable[[], Result], settings: Any = None) -> Result:
        """Call a function on all ranks; an error of one becomes one of all, as in `agree`."""
        error, result = None, []
        try:
            result.append(what())
        except Exception as caught:
            error = caught
        self.agree(call, error, settings)
        return result[0]

    def hold(self, call: str, lock: Any) -> AbstractContextManager[Any]:
        """What to take with ``with``; if this rank must not use the optimizer, all raise."""
        if lock.refusal == PAUSED:
            self.refuse(call, RuntimeError(PAUSED))
        held: AbstractContextManager[Any] = lock.hold()
        return held

    def any(self, marks: Sequence[bool]) -> list[bool]:
        """Which marks some rank has set; there are as many on each."""
        own = np.array(marks, np.uint8)
        found = np.empty_like(own)
        self.comm.Allreduce(own, found, MPI.MAX)
        return [bool(mark) for mark in found]

    def _raise(self, call: str, error: Exception | None, settings: Any) -> NoReturn:
        found = self.comm.allgather((call, _in_reprs(settings), _described(error)))
        for place, (_, _, described) in enumerate(found):
            if described is not None:
                name, text = described
                raise CLASSES.get(name, RuntimeError)(f"rank {place}: {text}") from error
        different = next(i for i, other in enumerate(found) if other[:2] != found[0][:2])
        first, other = found[0], found[different]
        if first[0] != other[0]:
            message = f"rank 0 calls {first[0]}, and rank {different} calls {other[0]}"
        else:
            ours, theirs = _first_difference(first[1], other[1])
            message = (
                f"{call} with {_shown(ours, theirs)} on rank 0, and with "
                f"{_shown(theirs, ours)} on rank {different}; it must be the same"
            )
        raise RuntimeError(f"the ranks do not do the same: {message}")


def _duplicates_of(comm: Any) -> list[tuple[weakref.ref[Ranks], Any]]:
    """Those that were made of a communicator and not freed, in the same order on all ranks."""
    global _key
    if _key is None:
        _key = MPI.Comm.Create_keyval()
    found: list[tuple[weakref.ref[Ranks], Any]] | None = comm.Get_attr(_key)
    if found is None:
        found = []
        comm.Set_attr(_key, found)
    return found


def _free_unused(comm: Any, duplicates: list[tuple[weakref.ref[Ranks], Any]]) -> None:
    """Free the duplicates that no rank uses any more."""
    used = np.array([user() is not None for user, _ in duplicates], np.uint8)
    if len(used):
        comm.Allreduce(MPI.IN_PLACE, used, MPI.MAX)
    for _, duplicate in itertools.compress(duplicates, used == 0):
        duplicate.Free()
    duplicates[:] = itertools.compress(duplicates, used)


def _shown(text: str, other: str) -> str:
    """A long text where it differs from another one."""
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    begin = sum(1 for _ in alike)
    first, stop = max(begin - SHOWN // 2, 0), begin + SHOWN // 2
    return "..." * (first > 0) + text[first:stop] + "..." * (stop < len(text))


def _in_reprs(settings: Any) -> Any:
    """Settings that any rank can compare: lists of the `repr` of what is in them.

    A name and what goes with it stay together.
    """
    if isinstance(settings, list | tuple):
        is_named = len(settings) == 2 and isinstance(settings[0], str)
        return repr(settings) if is_named else list(map(_in_reprs, settings))
    return repr(settings)


def _first_difference(ours: Any, theirs: Any) -> tuple[str, str]:
    """The first parts of two settings that are not the same."""
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = zip(ours, theirs, strict=True)
        return next(_first_difference(*pair) for pair in pairs if pair[0] != pair[1])
    return str(ours), str(theirs)


def _described(error: Exception | None) -> tuple[str, str] | None:
    if error is None:
        return None
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in CLASSES), "")
    return name, text if name else f"{type(error).__name__}: {text}"
