"""The moving averages of an optimizer's parameters, put in their place for a while."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ContextDecorator
from functools import partial
from typing import Any

import numpy as np

from fastadam import _tree
from fastadam._arrays import Arrays
from fastadam._guard import PAUSED, at_once
from fastadam._quiet import quietly
from fastadam._slots import view_of
from fastadam._types import Array


def moving_averages(arrays: Arrays) -> list[Array]:
    """The averages, in the order of the slots."""
    averages = [slot.average for slot in arrays.slots if slot.average is not None]
    if not averages:
        raise ValueError("there is no average of the parameters; set ema_decay")
    return averages


def copies_of_averages(arrays: Arrays, averages: Sequence[Array]) -> Any:
    """Copies of the averages, nested as the parameters."""
    copies = [
        np.empty_like(view_of(slot.user), average.dtype)
        for slot, average in zip(arrays.slots, averages, strict=True)
    ]
    for copy, average in zip(copies, averages, strict=True):
        np.copyto(copy, average)
    return _tree.build(arrays.spec, copies)


class Averaged(io.IOBase, ContextDecorator):
    """A block in which parameters have the values of their averages.

    Parameters
    ----------
    lock : Lock
        The optimizer's.
    hold : callable
        Gives what to take with ``with``, or an error if nobody may have the lock now.
    arrays : callable
        Gives the optimizer's arrays, or an error if it cannot be used; the lock is held.
    averages : callable
        Gives the averages of these, in the order of the slots.

    Notes
    -----
    What the parameters were is put back by `close`. ``io.IOBase`` calls it at the end of a
    ``with`` block, and when the object goes, which it does together with the block's frame. All
    of that is C, so Ctrl-C cannot come before it, as it can before a method in Python begins.
    """

    def __init__(
        self,
        lock: Any,
        hold: Callable[[], AbstractContextManager[Any]],
        arrays: Callable[[], Arrays],
        averages: Callable[[Arrays], list[Array]],
    ) -> None:
        self._lock, self._hold, self._arrays, self._averages = lock, hold, arrays, averages
        self.close = at_once(())  # type: ignore[method-assign]

    def __enter__(self) -> None:  # type: ignore[override]
        before = self.close
        try:
            with self._hold():
                self._begin(self._arrays())
        except BaseException:
            if self.close is not before:  # or it is the end of a block that is still open
                self.close()
            raise

    def _begin(self, arrays: Arrays) -> None:
        averages = self._averages(arrays)
        arrays.check_nest()
        for i in range(len(averages)):
            arrays.check_param(i)
        # Views, which stay as they are if the block reshapes a parameter, say.
        params = [view_of(slot.user) for slot in arrays.slots]
        kept = [param.copy(order="K") for param in params]
        # A float16 parameter's may be beyond its range, of which NumPy would warn, in Python.
        averages = [
            quietly(average.astype, param.dtype, copy=False)
            for param, average in zip(params, averages, strict=True)
        ]
        self.close = at_once(  # type: ignore[method-assign]
            [*_copies(params, kept), partial(setattr, self._lock, "refusal", None)]
        )
        at_once([partial(setattr, self._lock, "refusal", PAUSED), *_copies(params, averages)])()

    def _recreate_cm(self) -> Averaged:
        """For each call of a function that this decorates, another one."""
        return Averaged(self._lock, self._hold, self._arrays, self._averages)


def _copies(targets: list[Array], sources: list[Array]) -> list[Callable[[], object]]:
    """Calls of C, each of which copies an array."""
    return [
        partial(target.__setitem__, ..., source)
        for target, source in zip(targets, sources, strict=True)
    ]
