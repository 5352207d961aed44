"""What all ranks do together, or none: a call whose errors reach everybody."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
from mpi4py import MPI

Result = TypeVar("Result")
#: Errors that keep their class when they are raised on other ranks.
CLASSES = {error.__name__: error for error in (KeyError, OSError, TypeError, ValueError)}


class Ranks:
    """The processes that share an optimizer.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Of which a duplicate is used, so that messages do not meet others'. None: COMM_WORLD.
    """

    def __init__(self, comm: Any = None) -> None:
        self.comm = (MPI.COMM_WORLD if comm is None else comm).Dup()
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

    def together(self, call: str, what: Callable[[], Result], settings: Any = None) -> Result:
        """Call a function on all ranks; an error of one becomes one of all, as in `agree`."""
        error, result = None, []
        try:
            result.append(what())
        except Exception as caught:
            error = caught
        self.agree(call, error, settings)
        return result[0]

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
                f"{call} with {ours} on rank 0, and with {theirs} on rank {different}; it must be "
                "the same"
            )
        raise RuntimeError(f"the ranks do not do the same: {message}")


def _in_reprs(settings: Any) -> Any:
    """Settings that any rank can compare: lists of the `repr` of what is in them.

    A name and what goes with it stay together.
    """
    if isinstance(settings, list | tuple):
        is_named = len(settings) == 2 and isinstance(settings[0], str)
        return repr(settings) if is_named else list(map(_in_reprs, settings))
    return repr(settings)


def _first_difference(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """The first parts of two settings that are not the same."""
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = zip(ours, theirs, strict=True)
        return next(_first_difference(*pair) for pair in pairs if pair[0] != pair[1])
    return ours, theirs


def _described(error: Exception | None) -> tuple[str, str] | None:
    if error is None:
        return None
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in CLASSES), "")
    return name, text if name else f"{type(error).__name__}: {text}"
