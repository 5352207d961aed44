"""What is sent at a time: buckets of which each rank steps a piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from mpi4py import MPI

from fastadam._arrays import Arrays, Counts, Written
from fastadam._codecs import numbers_of
from fastadam._hyper import Clip, Group
from fastadam._quiet import quietly
from fastadam._slots import Slot, flat, real_dtype, slot
from fastadam._types import Array
from fastadam.mpi._cuts import Cut, Segment

if TYPE_CHECKING:
    from fastadam.mpi._shares import Shares

#: Makes the slots of pieces with their state: of a bare slot, a segment and the array's group.
MakeState: TypeAlias = Callable[[Slot, Segment], Slot]


class Piece:
    """What one rank steps at a time: segments of arrays, with their state."""

    def __init__(self, shares: Shares, own: list[Segment], make_state: MakeState) -> None:
        arrays, self.own = shares.arrays, own
        self.slots = [make_state(_bare(arrays, segment), segment) for segment in own]
        written = [Written("params" + part.suffix, part.user, part.view) for part in self.slots]
        self.batch = shares.backend.Batch(
            Arrays(
                rule=arrays.rule,
                spec=list(range(len(own))),
                names=("params", "grads"),
                slots=self.slots,
                written=written,
                n_groups=len(arrays.traits),
                in_groups=False,
                ema_decay=shares.ema_decay,
            ),
            Counts(
                [shares.steps[segment.array] for segment in own],
                [shares.numbers[segment.array] for segment in own],
            ),
            shares.lock,
            Clip(shares.clip.max_grad_norm, False, False),
        )

    def grads(self, given: Sequence[bool]) -> list[Array | None]:
        """The reduced gradients of the segments; None where no rank has one."""
        return [
            np.empty(0, real_dtype(part.param)) if given[segment.array] else None
            for segment, part in zip(self.own, self.slots, strict=True)
        ]

    def step(
        self, given: Sequence[bool], groups: list[Group], loss_scale: float, norm: float | None
    ) -> None:
        """Step the segments by gradients whose norm is known, if that matters."""
        self.batch.step_held(self.grads(given), groups, loss_scale, norm=norm)


def _bare(arrays: Arrays, segment: Segment) -> Slot:
    """The slot of a segment, which has no state yet."""
    whole = arrays.slots[segment.array]
    part = flat(whole.param)[segment.start : segment.stop]
    bare = slot(arrays.rule, [part], whole.group, whole.suffix, segment.array)
    return bare._replace(origin=segment.start)


class Bucket(Piece):
    """As much as is sent at a time: segments of arrays, of which each rank steps a piece."""

    def __init__(self, shares: Shares, cut: Cut, make_state: MakeState) -> None:
        self.ranks, measures = shares.ranks, shares.clip.measures
        super().__init__(shares, cut.pieces[self.ranks.rank], make_state)
        self.pieces, self.segments, self.counts = cut.pieces, cut.segments, cut.counts
        self.begins = [0, *accumulate(self.counts)][:-1]
        wholes = [shares.arrays.slots[segment.array].param for segment in self.segments]
        self.real = real_dtype(wholes[0])
        self.params = [
            flat(whole)[segment.start : segment.stop]
            for whole, segment in zip(wholes, self.segments, strict=True)
        ]
        #: What is on its way: all gradients, those of this rank's piece, and of all ranks one.
        self.request: Any = None
        self.sent: Any = None
        self.reduced = np.empty(0, self.real)
        #: Where the sums of its piece are kept until the norm of all is known. A step of 16,777,216
        #: numbers takes two thirds of the time in memory that is not new (1 rank, Zen 4).
        self.kept = np.empty(self.counts[self.ranks.rank], self.real) if measures else None
        self.received: Any = None
        self.whole: Any = None  # all parameters of the bucket in a row

    @property
    def is_one(self) -> bool:
        """Whether its numbers lie in a row, in the arrays themselves."""
        return len(self.segments) == 1

    @property
    def size(self) -> int:
        return sum(self.counts)

    def reduce(self, grads: Sequence[Any], room: Array, to: Array, exact: bool) -> None:
        """Begin to add up the gradients of all ranks; `to` gets this rank's piece."""
        self.sent, self.reduced, self.exact = self._packed(grads, room), to, exact
        if exact:
            n = len(to)
            self.received = np.empty((self.ranks.size, n), self.real)
            self.request = self.ranks.comm.Ialltoallv(
                (self.sent, (self.counts, self.begins)),
                (self.received, ([n] * self.ranks.size, [n * r for r in range(self.ranks.size)])),
            )
        else:
            self.request = self.ranks.comm.Ireduce_scatter(self.sent, to, self.counts, MPI.SUM)

    def _packed(self, grads: Sequence[Any], room: Array) -> Array:
        """All gradients in a row, zeros where an array has none on this rank."""
        if self.is_one:
            (segment,) = self.segments
            grad = grads[segment.array]
            if grad is not None and grad.dtype == self.real:
                part: Array = grad[segment.start : segment.stop]
                return part
        packed, begin = room[: self.size], 0
        for segment in self.segments:
            part = packed[begin : begin + segment.size]
            grad = grads[segment.array]
            part[:] = 0 if grad is None else numbers_of(grad[segment.start : segment.stop])
            begin += segment.size
        return packed

    def end_reduce(self, average: bool) -> None:
        """Wait for the sums, and make them means."""
        self.request.Wait()
        self.sent = None
        if self.exact:  # in the order of the ranks
            quietly(np.copyto, self.reduced, self.received[0])
            for other in self.received[1:]:
                quietly(np.add, self.reduced, other, out=self.reduced)
            self.received = None
        if average and self.ranks.size > 1:
            quietly(np.divide, self.reduced, self.ranks.size, out=self.reduced)

    def grads(self, given: Sequence[bool]) -> list[Array | None]:
        found: list[Array | None] = []
        begin = 0
        for segment in self.own:
            part = self.reduced[begin : begin + segment.size]
            found.append(part if given[segment.array] else None)
            begin += segment.size
        return found

    def gather(self, room: Array) -> None:
        """Begin to send the stepped piece to all ranks, and to receive theirs."""
        if self.is_one:
            self.whole = self.params[0]
        else:
            self.whole = room.view(self.params[0].dtype)[: self.size]
            for param, packed in zip(self.params, self._packed_params(), strict=True):
                packed[:] = param
        codes = self.whole.view(np.uint16) if self.whole.itemsize == 2 else self.whole
        self.request = self.ranks.comm.Iallgatherv(
            MPI.IN_PLACE, (codes, (self.counts, self.begins))
        )

    def end_gather(self, given: Sequence[bool]) -> None:
        """Wait for the pieces of the others; an array without a gradient stays as it is."""
        if self.request is None:
            return
        self.request.Wait()
        self.request = None
        if not self.is_one:
            for segment, param, packed in zip(
                self.segments, self.params, self._packed_params(), strict=True
            ):
                if given[segment.array]:
                    param[:] = packed
        self.whole = None

    def _packed_params(self) -> Iterator[Array]:
        """The parts of `whole` that belong to the segments."""
        begin = 0
        for param in self.params:
            yield self.whole[begin : begin + len(param)]
            begin += len(param)
