"""The whole arrays whose parts the ranks own, which exist in checkpoints alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam._codecs import BFLOAT16, BLOCK, INT8, n_blocks
from fastadam._types import Array


class Whole(NamedTuple):
    """An array, and where the part of this rank begins in it."""

    label: str
    shape: tuple[int, ...]
    begin: int  # its first element
    reals: int  # how many numbers an element has: two if it is complex

    @property
    def origin(self) -> int:
        """The first number of the part."""
        return self.begin * self.reals

    def shape_of(self, dtype: np.dtype[Any], part: Array) -> tuple[int, ...]:
        """The shape of what goes with the whole array in that dtype."""
        if dtype == INT8:
            return n_blocks(math.prod(self.shape) * self.reals), BLOCK + 1
        is_pairs = part.dtype.kind == "c" and dtype == BFLOAT16
        return (*self.shape, 2) if is_pairs else self.shape

    def cut(self, name: str, array: Array, part: Array) -> Array:
        """What goes with a part of an array that goes with the whole one.

        Raises
        ------
        ValueError
            It goes with an array of another shape, or blocks of 8 bits would have to be cut.
        """
        expected = self.shape_of(array.dtype, part)
        if array.shape != expected:
            raise ValueError(
                f"{name} of {self.label} has shape {array.shape}, expected {expected} for parts "
                f"that are {self.shape} together"
            )
        if array.dtype == INT8:
            if self.origin % BLOCK and part.size:
                raise ValueError(
                    f"{name} of {self.label} was saved in 8 bits, and the part of this rank begins "
                    f"at number {self.origin}; expected a multiple of {BLOCK}"
                )
            first = self.origin // BLOCK
            return array[first : first + n_blocks(part.size * self.reals)]
        extra = array.shape[len(self.shape) :]
        width = math.prod(extra)
        vector = array.reshape(-1)[self.begin * width : (self.begin + part.size) * width]
        return vector.reshape(*part.shape, *extra)


def joined_shape(parts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of parts joined along their first axis, or as vectors if they do not fit so."""
    parts = [shape for shape in parts if math.prod(shape)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    if all(shape and shape[1:] == parts[0][1:] for shape in parts):
        return sum(shape[0] for shape in parts), *parts[0][1:]
    return (sum(map(math.prod, parts)),)
