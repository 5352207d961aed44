"""Where arrays are cut: into buckets, and these into a piece for each rank."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from fastadam._numpy import NORM_BLOCK


class Segment(NamedTuple):
    """A part of one array: its numbers from `start` to `stop`, in the order of its memory."""

    array: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class Cut(NamedTuple):
    """A bucket: for each rank the segments of its piece, one after the other."""

    pieces: list[list[Segment]]

    @property
    def segments(self) -> list[Segment]:
        """Those of all ranks, where neighbours in an array are one."""
        joined: list[Segment] = []
        for segment in (segment for piece in self.pieces for segment in piece):
            if joined and joined[-1].array == segment.array:
                joined[-1] = joined[-1]._replace(stop=segment.stop)
            else:
                joined.append(segment)
        return joined

    @property
    def counts(self) -> list[int]:
        """How many numbers each rank's piece has."""
        return [sum(segment.size for segment in piece) for piece in self.pieces]


def cut(arrays: Sequence[int], sizes: Sequence[int], n_ranks: int, most: int) -> list[Cut]:
    """Cut arrays of these numbers and sizes into buckets of about `most` numbers.

    An array is cut at whole blocks of 4,096 numbers from its beginning, and its last piece has at
    least as many. So a norm is summed in the blocks of a single process, codes of 8 bits are whole
    blocks, and all pieces of an array are stored in 8 bits if it is.
    """
    starts = [0, *accumulate(sizes)]
    total = starts[-1]
    if total == 0:
        return []

    def border(x: float) -> int:
        """The cut nearest to a place in all arrays, one after the other."""
        i = min(bisect_right(starts, x) - 1, len(sizes) - 1)
        last = max(sizes[i] // NORM_BLOCK - 1, 0) * NORM_BLOCK  # in the array
        below = min(int(x - starts[i]) // NORM_BLOCK * NORM_BLOCK, last)
        above = below + NORM_BLOCK if below < last else sizes[i]
        nearest = below if x - starts[i] - below <= starts[i] + above - x else above
        return starts[i] + nearest

    n_buckets = -(-total // max(most, n_ranks * NORM_BLOCK))
    edges = sorted({*(border(b * total / n_buckets) for b in range(n_buckets)), total})
    cuts = []
    for first, stop in pairwise(edges):
        own = [border(first + r * (stop - first) / n_ranks) for r in range(n_ranks)] + [stop]
        own = [min(max(edge, first), stop) for edge in own]
        own[0] = first
        cuts.append(Cut([_segments(arrays, starts, begin, end) for begin, end in pairwise(own)]))
    return cuts


def _segments(arrays: Sequence[int], starts: Sequence[int], begin: int, end: int) -> list[Segment]:
    """The parts of arrays between two places in all of them."""
    segments = []
    i = bisect_right(starts, begin) - 1
    while begin < end:
        stop = min(end, starts[i + 1])
        if stop > begin:
            segments.append(Segment(arrays[i], begin - starts[i], stop - starts[i]))
        begin = max(begin, stop)
        i += 1
    return segments
