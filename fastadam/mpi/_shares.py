"""The arrays of an optimizer, of which each rank steps a share and keeps that one's state."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from fastadam._arrays import Arrays, Counts
from fastadam._codecs import BLOCK as CODE_BLOCK
from fastadam._codecs import INT8
from fastadam._hyper import Clip, Group
from fastadam._numpy import NORM_BLOCK
from fastadam._quiet import quietly
from fastadam._rows import Rows
from fastadam._slots import Slot, flat, form, real_dtype, state_like, streams_of
from fastadam._types import Array
from fastadam.mpi import _saving
from fastadam.mpi._buckets import Bucket, MakeState, Piece
from fastadam.mpi._cuts import Segment, cut
from fastadam.mpi._norm import fold, must_skip, norm_of_all
from fastadam.mpi._ranks import Ranks
from fastadam.mpi._together import Together

MIB = 1 << 20


class Shares(Together):
    """What an optimizer steps; it stands in the place of a backend's Batch.

    Parameters
    ----------
    ranks : Ranks
    backend : module
        That which steps the pieces.
    arrays : Arrays
        All arrays, whose slots have no state.
    counts : Counts
    lock : Lock
    clip : Clip
    make_state : callable
        Gives the slot of a piece its state.
    ema_decay : float or None
    average : bool
        Whether gradients are averaged over the ranks, and not summed.
    deterministic : bool
        Whether they are added up in the order of the ranks.
    bucket_bytes : int or None
        How much is sent at a time, about. With None it grows with the ranks, as each of them adds
        a message (docs/scaling.md).
    """

    def __init__(
        self,
        ranks: Ranks,
        backend: Any,
        arrays: Arrays,
        counts: Counts,
        lock: Any,
        clip: Clip,
        make_state: MakeState,
        *,
        ema_decay: float | None,
        average: bool,
        deterministic: bool,
        bucket_bytes: int | None,
    ) -> None:
        self.ranks, self.backend, self.arrays, self.lock = ranks, backend, arrays, lock
        self.clip, self.ema_decay = clip, ema_decay
        self.average, self.deterministic = average, deterministic
        self.steps, self.numbers = list(counts.steps), list(counts.numbers)
        self.finished, self.skipped = counts.finished, counts.skipped
        self.grad_norm = counts.grad_norm
        self.buckets: list[Bucket] = []
        for whole in arrays.slots:  # averages and masters begin with what is in the parameters
            for user, stand_in in whole.copies:
                np.copyto(stand_in, user)
        kinds = [_sent_as(whole) for whole in arrays.slots]
        for dtype in dict.fromkeys(kinds):
            own = [i for i, kind in enumerate(kinds) if kind == dtype]
            sizes = [flat(arrays.slots[i].param).size for i in own]
            n_bytes = max(4 * MIB, ranks.size * MIB // 4) if bucket_bytes is None else bucket_bytes
            most = n_bytes // dtype[0].itemsize
            cuts = cut(own, sizes, ranks.size, most)
            self.buckets += [Bucket(self, part, make_state) for part in cuts]
        empty = [i for i, whole in enumerate(arrays.slots) if whole.param.size == 0]
        #: Arrays without numbers, which have step counts all the same, on all ranks.
        self.empty = Piece(self, [Segment(i, 0, 0) for i in empty], make_state)
        largest = max((bucket.size * bucket.real.itemsize for bucket in self.buckets), default=0)
        #: What is sent and received for one bucket, while another is stepped; of whole float64.
        self._rooms = [np.empty(largest + -largest % 8, np.uint8) for _ in range(4)]
        self._order = self._order_of_sums() if clip.measures else None

    def step_together(
        self, grads: Any, plain: list[Array | None], groups: list[Group], loss_scale: float
    ) -> None:
        given = self._given(plain)
        copies = [
            pair
            for whole, is_given in zip(self.arrays.slots, given, strict=True)
            if is_given
            for pair in whole.copies
        ]
        for user, stand_in in copies:
            np.copyto(stand_in, user)
        self._exchange(plain, given, groups, loss_scale)
        for user, stand_in in copies:
            np.copyto(user, stand_in)

    def prepared(self, found: list[Array | Rows | None]) -> list[Array | None]:
        """The gradients as vectors of their arrays' real numbers, in the order of memory."""
        plain: list[Array | None] = []
        for i, grad in enumerate(found):
            if isinstance(grad, Rows):
                refuse_rows(self.arrays, i)
            plain.append(None if grad is None else flat(grad))
        return plain

    def _given(self, plain: Sequence[Array | None]) -> list[bool]:
        """Which arrays some rank has a gradient of.

        Where this rank has none, it has not checked the array, which may be fixed, say, if no rank
        has one.
        """
        n, errors = len(plain), self._unfit([i for i, grad in enumerate(plain) if grad is None])
        marks = self.ranks.any(
            [*(grad is not None for grad in plain), *(i in errors for i in range(n))]
        )
        given, unfit = marks[:n], marks[n:]
        if any(map(operator.and_, given, unfit)):
            error = next((errors[i] for i in errors if given[i]), None)
            self.ranks.agree("step", error)
        return given

    def _unfit(self, places: Sequence[int]) -> dict[int, Exception]:
        """Which of some arrays a step could not write, and why."""
        errors: dict[int, Exception] = {}
        if not places:
            return errors
        try:
            self.arrays.check_nest()
            is_in_place = True  # all of them, which is seen at once
        except Exception:
            is_in_place = False
        none: list[Any] = [None] * len(self.arrays.slots)
        for i in places:
            try:
                self.arrays.check_param(i)
                if not is_in_place:
                    self.arrays.check_nest([*none[:i], True, *none[i + 1 :]])
            except Exception as error:
                errors[i] = error
        return errors

    def _exchange(
        self,
        plain: Sequence[Array | None],
        given: Sequence[bool],
        groups: list[Group],
        loss_scale: float,
    ) -> None:
        buckets = [
            bucket
            for bucket in self.buckets
            if any(given[segment.array] for segment in bucket.segments)
        ]
        rooms, norm = self._rooms, None

        def begin(k: int) -> None:
            bucket = buckets[k]
            room, to = rooms[k % 2].view(bucket.real), bucket.kept
            if to is None:
                to = rooms[2 + k % 2].view(bucket.real)[: bucket.counts[self.ranks.rank]]
            bucket.reduce(plain, room, to, self.deterministic)

        def finish(k: int) -> None:
            bucket = buckets[k]
            bucket.step(given, groups, loss_scale, norm)
            bucket.gather(rooms[k % 2])

        if self.clip.measures:
            for k in range(len(buckets)):
                if k >= 2:
                    buckets[k - 2].end_reduce(self.average)
                begin(k)
            for bucket in buckets[max(len(buckets) - 2, 0) :]:
                bucket.end_reduce(self.average)
            reduced = [bucket.reduced for bucket in buckets]
            norm = self.grad_norm = norm_of_all(
                self.ranks, lambda scale: self._sum_of_squares(given, scale), reduced, loss_scale
            )
            if must_skip(self.ranks, self.clip, reduced, norm, loss_scale):
                self.skipped += 1
                return
            for k in range(len(buckets)):
                if k >= 2:
                    buckets[k - 2].end_gather(given)
                finish(k)
        else:
            for k in range(len(buckets) + 1):
                if k >= 2:
                    buckets[k - 2].end_gather(given)
                if k < len(buckets):
                    begin(k)
                if k >= 1:
                    buckets[k - 1].end_reduce(self.average)
                    finish(k - 1)
        for bucket in buckets:
            bucket.end_gather(given)
        self.empty.step(given, groups, loss_scale, norm)
        for i, is_given in enumerate(given):
            self.steps[i] += is_given
        for piece in (*buckets, self.empty):
            for segment, numbers in zip(piece.own, piece.batch.numbers, strict=True):
                self.numbers[segment.array] = numbers
        self.finished += 1

    def _sum_of_squares(self, given: Sequence[bool], scale: float) -> float:
        """The sum over all blocks of all ranks, in the order of the arrays."""
        assert self._order is not None
        order, counts = self._order
        own = np.zeros(counts[self.ranks.rank])
        begin = 0
        for bucket in self.buckets:
            grads: Sequence[Array | None] = [None] * len(bucket.own)
            if any(given[segment.array] for segment in bucket.segments):
                grads = bucket.grads(given)
            for segment, grad in zip(bucket.own, grads, strict=True):
                n = -(-segment.size // NORM_BLOCK)
                if grad is not None:
                    own[begin : begin + n] = quietly(self.backend.block_sums, grad, scale)
                begin += n
        return fold(self.ranks, own, counts, order)

    def _order_of_sums(self) -> tuple[Array, list[int]]:
        """Where each block's sum is among those of all ranks, and how many each has."""
        wholes, firsts, counts = [], [], []
        for rank in range(self.ranks.size):
            own = [segment for bucket in self.buckets for segment in bucket.pieces[rank]]
            sizes = [-(-segment.size // NORM_BLOCK) for segment in own]
            wholes += [np.full(n, segment.array) for segment, n in zip(own, sizes, strict=True)]
            firsts += [
                np.arange(n) + segment.start // NORM_BLOCK
                for segment, n in zip(own, sizes, strict=True)
            ]
            counts.append(sum(sizes))
        if not wholes:
            return np.empty(0, np.intp), counts
        return np.lexsort((np.concatenate(firsts), np.concatenate(wholes))), counts

    def state_bytes(self) -> int:
        """The bytes of this rank's state."""
        return sum(
            array.nbytes
            for bucket in self.buckets
            for slot in bucket.slots
            for array in (*slot.state, slot.average, slot.rest)
            if array is not None
        )

    def pieces(self, of: Callable[[Slot], Any]) -> list[list[tuple[Segment, Any]]]:
        """For each array this rank's segments, with what `of` takes from their slots."""
        pieces: list[list[tuple[Segment, Any]]] = [[] for _ in self.arrays.slots]
        for bucket in (*self.buckets, self.empty):
            for segment, part in zip(bucket.own, bucket.slots, strict=True):
                pieces[segment.array].append((segment, of(part)))
        return pieces

    def whole(self, i: int, pieces: Sequence[tuple[Segment, Any]], to: int | None) -> Slot | None:
        """The slot of an array with the state of all ranks, on the rank `to` or on all.

        Parameters
        ----------
        i : int
            The array.
        pieces : sequence
            This rank's, as `pieces` gives them, of `streams_of` or of what stands for that.
        to : int or None
            The rank that gets it; the others get None.
        """
        comm = self.ranks.comm
        sent = pieces, self.numbers[i]
        found = comm.allgather(sent) if to is None else comm.gather(sent, to)
        if found is None:
            return None
        self.numbers[i] = next((numbers for own, numbers in found if own), self.numbers[i])
        return _joined(self.arrays.slots[i], [part for own, _ in found for part in own])

    def stand_ins(self) -> list[Slot] | None:
        """On rank 0, the slots with stand-ins for the state of all ranks."""
        pieces = self.pieces(
            lambda part: [None if array is None else array.dtype for array in streams_of(part)]
        )
        sent = [own and (own[0][1], self.numbers[i]) for i, own in enumerate(pieces)]
        found = self.ranks.comm.gather(sent)
        if found is None:
            return None
        slots = []
        for i, whole in enumerate(self.arrays.slots):
            dtypes, self.numbers[i] = next(own[i] for own in found if own[i])
            *state, average, rest = [_stand_in(whole, dtype) for dtype in dtypes]
            slots.append(whole._replace(state=tuple(state), average=average, rest=rest))
        return slots


def refuse_rows(arrays: Arrays, i: int) -> NoReturn:
    """An error: gradients of a few rows cannot be exchanged."""
    raise TypeError(
        f"{arrays.name(i)} is of some rows only, which ranks cannot exchange; give a dense gradient"
    )


def _stand_in(whole: Slot, dtype: np.dtype[Any] | None) -> Array | None:
    if dtype is None:
        return None
    dtype = _as_whole(whole, dtype)
    return _saving.stand_in(form(whole.param, dtype)[0], dtype)


def _joined(whole: Slot, pieces: Sequence[tuple[Segment, Any]]) -> Slot:
    """An array's slot with the state that lies in pieces."""
    streams: list[Array | None] = [None] * (len(whole.state) + 2)
    for segment, found in pieces:
        for number, part in enumerate(found):
            if part is None:
                continue
            stream = streams[number]
            if stream is None:
                dtype = _as_whole(whole, part.dtype)
                stream = streams[number] = state_like(whole.param, number, 0.0, dtype)
            own = flat(stream)
            if part.dtype == INT8:
                own[segment.start // CODE_BLOCK :][: len(part)] = part
            else:
                own[segment.start : segment.stop] = part
    *state, average, rest = streams
    return whole._replace(state=tuple(state), average=average, rest=rest)


def _as_whole(whole: Slot, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of an array's state whose pieces have another: of complex ones, real numbers."""
    is_complex = whole.param.dtype.kind == "c" and dtype == real_dtype(whole.param)
    return whole.param.dtype if is_complex else dtype


def _sent_as(whole: Slot) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The dtypes in which an array's gradient and its parameter are sent.

    Arrays that are alike in that are sent together.
    """
    return real_dtype(whole.param), flat(whole.param).dtype
