"""The backend without the extension: steps arrays with the rules of _rules/, block by block."""

from __future__ import annotations

import io
import math
import operator
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from fastadam import _hyper
from fastadam._arrays import Arrays, Counts
from fastadam._codecs import BLOCK as CODE_BLOCK
from fastadam._codecs import (
    INT8,
    decoded,
    encode,
    is_code,
    keep_master,
    master_of,
    numbers_of,
    pieces,
)
from fastadam._guard import HELD, KEPT, REENTERED, at_once
from fastadam._quiet import quietly
from fastadam._rows import Rows
from fastadam._rules import Block, Scalars, step_blocks
from fastadam._slots import flat, real_dtype
from fastadam._types import Array


class Lock:
    """Who may use an optimizer; the twin of _native.Lock, but not fair.

    What holds it is a lock in C, which Ctrl-C cannot keep from being released at the end of a
    ``with`` block (but see `Hold`). A class with an ``__exit__`` in Python could not promise that.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: Why nobody may use the optimizer now; who waited for the lock must look again.
        self.refusal: str | None = None
        _locks.add(weakref.ref(self, _locks.discard))

    def hold(self) -> AbstractContextManager[Any]:
        """What to take with ``with``, or an error if this thread has it, or nobody may.

        There should be no loop in the block: in Python 3.12 and 3.13 some jumps back within a
        block do not belong to it, and if Ctrl-C comes there, it is left without its end.
        """
        if self.refusal:
            raise RuntimeError(self.refusal)
        if self._lock._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(REENTERED)
        return self._lock if sys.version_info < (3, 14) else Hold(self._lock)

    def after_fork(self) -> None:
        """In a child: if a thread that is not there held the lock, what it changed is torn."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock._at_fork_reinit()  # type: ignore[attr-defined]
            self.refusal = HELD


class Hold(io.IOBase):
    """A lock in one ``with`` block, all in C.

    From Python 3.14 on Ctrl-C can come after ``__enter__`` and before the block, which is then left
    without its end. What was made for the block goes then, and ``io.IOBase`` calls `close`. It also
    asks whether it is `closed`, at first when the block begins, and that takes the lock.
    """

    closed = property(  # pyright: ignore[reportIncompatibleMethodOverride]
        operator.methodcaller("take")
    )

    def __init__(self, lock: Any) -> None:
        self.close = at_once(())  # type: ignore[method-assign]
        calls = [
            partial(setattr, self, "take", bool),  # what is not taken a second time is false, too
            lock.acquire,
            partial(setattr, self, "close", at_once([lock.release])),
        ]
        self.take: Any = partial(deque, map(operator.call, calls), 0)


_locks: set[weakref.ref[Lock]] = set()


def _after_fork() -> None:
    for reference in list(_locks):
        lock = reference()
        if lock is not None:
            lock.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

# Elements worked on at a time. Smaller blocks pay for NumPy's calls, larger ones
# leave the cache; bench/numpy_block.py compares them.
BLOCK = 65536
NORM_BLOCK = 4096  # FA_BLOCK in csrc/fastadam.h: it decides the norm's last bits


def norm_blocks(grads: Sequence[Array]) -> Iterator[Array]:
    """The numbers of gradients, in the blocks of csrc/norm.c."""
    for grad in grads:
        for start in range(0, grad.size, NORM_BLOCK):
            yield numbers_of(grad[start : start + NORM_BLOCK])


def block_sum(block: Array, scale: float, wide: Array) -> float:
    """The sum of squares of a block, in double, in the order of csrc/norm.c."""
    y = np.multiply(block, scale, out=wide[: block.size], dtype=np.float64)
    np.multiply(y, y, out=y)
    whole = y.size - y.size % 16
    sums = np.add.reduce(y[:whole].reshape(-1, 16), axis=0)
    sums[: y.size - whole] += y[whole:]
    for width in (8, 4, 2, 1):
        sums[:width] += sums[width : 2 * width]
    return float(sums[0])


def grad_norm(grads: Sequence[Array], loss_scale: float, wide: Array) -> float:
    """The L2 norm of all gradients divided by the loss scale; the twin of fa_grad_norm."""

    def total(scale: float) -> float:
        result = 0.0
        for block in norm_blocks(grads):
            result += block_sum(block, scale, wide)
        return result

    squares = total(1.0)
    info = np.finfo(np.float64)
    if squares == math.inf or squares < info.smallest_normal / info.eps:
        bound = max((float(np.abs(block).max()) for block in norm_blocks(grads)), default=0.0)
        if 0 < bound < math.inf:
            exponent = max(math.frexp(bound)[1], -1000)
            root = np.sqrt(total(math.ldexp(1, -exponent)))
            return float(np.ldexp(root / loss_scale, exponent))
    return float(np.sqrt(squares)) / loss_scale


def block_sums(numbers: Array, scale: float) -> Array:
    """The sums of squares of each block of a vector, times `scale` squared; as fa_sums has them."""
    wide = np.empty(NORM_BLOCK)
    blocks = norm_blocks([numbers])
    return np.array([block_sum(block, scale, wide) for block in blocks], np.float64)


def overflows(grads: Sequence[Array], norm: float, clip: float, loss_scale: float) -> bool:
    """Whether a finite gradient becomes infinite in a step; the twin of fa_overflows."""
    if not norm * clip > _hyper.FLOAT32_MAX / 2:
        return False
    factor = np.float32(clip / loss_scale)
    return any(
        not np.isfinite(block * factor).all()
        for block in norm_blocks(grads)
        if block.dtype == np.float32
    )


def sum_rows(values: Array, order: Array, starts: Array) -> Array:
    """Sums of equal rows; see _rows.SumRows. The twin of csrc/merge_rows.c."""
    first = starts[:-1]
    sums: Array = values[order[first]]
    more = np.ones(len(order), bool)
    more[first] = False
    quietly(np.add.at, sums, (np.cumsum(~more) - 1)[more], values[order[more]])
    return sums


class Batch:
    """The arrays of an optimizer with their step counts; the twin of _native.Batch."""

    def __init__(self, arrays: Arrays, counts: Counts, lock: Lock, clip: _hyper.Clip) -> None:
        self.arrays = arrays
        self.steps = list(counts.steps)
        self.numbers = list(counts.numbers)
        self.finished = counts.finished
        self.skipped = counts.skipped
        self.grad_norm = counts.grad_norm
        self._lock = lock
        self._clip = clip
        self.sums: Any = None  # of the gradients that accumulate kept
        self.retired = False  # whether the optimizer has another batch now
        n_groups = len(arrays.traits)
        self._hypers: list[Any] = [None] * n_groups
        self._lrs = [0.0] * n_groups  # of this step
        self._decays = [0.0] * n_groups
        self._seen: list[_hyper.Group | None] = [None] * n_groups
        self._scalars: dict[tuple[int, np.dtype[Any]], Scalars] = {}
        self._flat: list[list[Any]] = [
            [
                None if array is None else flat(array)
                for array in (slot.param, slot.average, slot.rest, *slot.state)
            ]
            for slot in arrays.slots
        ]
        self._dtypes = [real_dtype(slot.param) for slot in arrays.slots]
        most = max((params.size for params, *_ in self._flat if params is not None), default=0)
        self._scratch = {dtype: np.empty((3, min(most, BLOCK)), dtype) for dtype in self._dtypes}
        #: None for arrays with codes, whose blocks are made in each step.
        self._blocks = [
            None if has_codes(streams) else [*self._cut(streams)] for streams in self._flat
        ]
        self._wide = np.empty(NORM_BLOCK if clip.measures else 0)

    def _cut(self, streams: Sequence[Any]) -> Iterator[Block]:
        """The blocks of an array."""
        for place, (p, average, _, *state) in pieces(streams, streams[0].size, BLOCK):
            yield self._block(place, p, state, average)

    def _coded(
        self, streams: Sequence[Any], k: Scalars, origin: int, index: Array | None = None
    ) -> Iterator[Block]:
        """The blocks of an array with codes: each is decoded, and encoded after its step.

        `index` is where the elements are, if these are not all of the array's; and `origin` where
        that begins in the whole.
        """
        rule = self.arrays.rule
        for place, (p, average, rest, *state) in pieces(streams, streams[0].size, BLOCK):
            master, numbers = master_of(p, rest), decoded(rule, state, p.size)
            yield self._block(place, master, numbers, average)
            keep_master(master, p, rest)
            here = np.arange(place.start, place.stop) if index is None else index[place]
            encode(rule, numbers, state, here + origin, k.hyper.seed, k.step)

    def _block(self, place: slice, p: Array, state: Sequence[Any], average: Array | None) -> Block:
        a, b, c = [vector[: p.size] for vector in self._scratch[p.dtype]]
        return Block(place, p, state, average, (a, b, c))

    def step(
        self,
        grads: Any,
        groups: list[_hyper.Group],
        loss_scale: float,
        most_threads: int | None = None,
    ) -> bool:
        """One step of every array that has a gradient; all checks come first.

        False if the batch was retired while this waited for the lock.
        """
        with self._lock.hold():
            if self.retired:
                return False
            if self.sums is not None:
                raise ValueError(KEPT)
            if self._lock.refusal:
                raise RuntimeError(self._lock.refusal)
            self.step_held(grads, groups, loss_scale, most_threads)
            return True

    def step_held(
        self,
        grads: Any,
        groups: list[_hyper.Group],
        loss_scale: float,
        most_threads: int | None = None,
        norm: float | None = None,
    ) -> None:
        """The same for who holds the lock, and who may know the norm of all gradients."""
        scale = 1.0
        if type(loss_scale) is not float or loss_scale != 1.0:
            scale = _hyper.check_loss_scale(loss_scale, self.arrays.traits)
        self._load_groups(groups)
        plain = self.arrays.plain_gradients(grads, self._decays, sum_rows)
        quietly(self._run, plain, scale, norm)

    def _load_groups(self, groups: list[_hyper.Group]) -> None:
        """Check the groups in which an object was replaced, and call learning-rate functions."""
        arrays = self.arrays
        arrays.check_number(groups)
        for i, group in enumerate(groups):
            if i == len(self._seen):
                arrays.check_number(groups)
            if not has_items(group, self._seen[i]):
                # What is remembered is what was checked: the group may get new values meanwhile.
                if type(group) is dict:
                    group = group.copy()
                self._seen[i] = None
                hyper = self._hypers[i] = _hyper.check_group(group, arrays.traits[i])
                self._decays[i] = hyper.weight_decay
                if _hyper.is_fixed(group, arrays.traits[i]):
                    self._seen[i] = group
        arrays.check_number(groups)  # what was read may have taken some away
        for i, hyper in enumerate(self._hypers):
            self._lrs[i] = _hyper.lr_now(hyper, self.finished, arrays.traits[i])

    def _run(self, grads: list[Array | Rows | None], loss_scale: float, norm: float | None) -> None:
        vectors = [
            None if grad is None else flat(grad.values if isinstance(grad, Rows) else grad)
            for grad in grads
        ]
        clip = 1.0
        if norm is not None or self._clip.measures:
            given = [vector for vector in vectors if vector is not None]
            self.grad_norm = grad_norm(given, loss_scale, self._wide) if norm is None else norm
            if self._clip.max_grad_norm < math.inf:
                clip = self._clip.max_grad_norm / (self.grad_norm + 1e-6)
            if clip > 1:
                clip = 1.0
            if self._clip.skip_nonfinite and (
                not math.isfinite(self.grad_norm)
                or overflows(given, self.grad_norm, clip, loss_scale)
            ):
                self.skipped += 1
                return
        factor = clip / loss_scale
        for i, vector in enumerate(vectors):
            if vector is None:
                continue
            grad, slot, step = grads[i], self.arrays.slots[i], self.steps[i] + 1
            k = self._scalars_of(slot.group, self._dtypes[i])
            k.make_for(self._lrs[slot.group], factor, step, self.numbers[i])
            for user, plain in slot.copies:
                np.copyto(plain, user)
            if isinstance(grad, Rows):
                self._step_rows(self._flat[i], grad.rows, vector, k, slot.origin)
            else:
                made = self._blocks[i]
                step_blocks(
                    k, vector, self._coded(self._flat[i], k, slot.origin) if made is None else made
                )
            for user, plain in slot.copies:
                np.copyto(user, plain)
            self.steps[i] = step
            self.numbers[i] = k.numbers
        self.finished += 1

    def _scalars_of(self, group: int, dtype: np.dtype[Any]) -> Scalars:
        k = self._scalars.get((group, dtype))
        if k is None or k.hyper is not self._hypers[group]:
            k = Scalars(self.arrays.rule, self._hypers[group], dtype)
            self._scalars[group, dtype] = k
        return k

    def _step_rows(
        self, arrays: list[Array | None], rows: Array, vector: Array, k: Scalars, origin: int
    ) -> None:
        if not vector.size:
            return
        width = vector.size // rows.size
        tables = [None if array is None else as_table(array, width) for array in arrays]
        some = max(BLOCK // width, 1)
        for start in range(0, rows.size, some):
            now = rows[start : start + some]
            parts = [
                None if table is None else table[now].reshape(-1, *table.shape[2:])
                for table in tables
            ]
            blocks = self._cut(parts)
            if has_codes(parts):
                index = (now[:, None] * width + np.arange(width)).reshape(-1)
                blocks = self._coded(parts, k, origin, index)
            step_blocks(k, vector[start * width :], blocks)
            for table, part in zip(tables, parts, strict=True):
                if table is not None and part is not None:
                    table[now] = part.reshape(-1, *table.shape[1:])


def has_codes(streams: Sequence[Array | None]) -> bool:
    """Whether some of a parameter, its average, what it lacks, and its state are codes."""
    _, _, rest, *state = streams
    return rest is not None or any(map(is_code, state))


def as_table(stream: Array, width: int) -> Array:
    """A stream with an axis for rows of that many elements; a row has whole blocks."""
    if stream.dtype != INT8:
        return stream.reshape(-1, width)
    return stream.reshape(-1, width // CODE_BLOCK, CODE_BLOCK + 1)


def has_items(group: Any, seen: _hyper.Group | None) -> bool:
    """Whether a group has the keys of `seen`, and the same objects under them."""
    return (
        seen is not None
        and type(group) is dict
        and [*group] == [*seen]
        and all(map(operator.is_, group.values(), seen.values()))
    )
