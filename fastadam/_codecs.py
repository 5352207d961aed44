"""Storage formats with fewer bits than a float32: the twin of csrc/codecs.c and csrc/coded.c.

An array's dtype says how its numbers are stored:

=========  =====================================================================================
dtype      numbers
=========  =====================================================================================
uint16     bfloat16, the upper half of a float32
float16    as NumPy has them
uint8      8 bits, in blocks of 64: an array of shape (blocks, 65), where each block begins with
           a byte that scales it. The last block has zeros for numbers that are not there.
=========  =====================================================================================

Codes are decoded to float32, the rule works with that, and what comes out is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam._types import Array

BLOCK = 64  # FA_CODE_BLOCK in csrc/fastadam.h
DITHER_STEP = 0x9E3779B1  # 2^32 divided by the golden ratio
MAGNITUDE, INFINITE, QUIET_NAN = 0x7FFFFFFF, 0x7F800000, 0x7FC00000
POSITIVE_MOST, SIGNED_MOST, SIGNED_BASE = 0x7F6FFFFF, 0x6F770000, 0x3C000000
MARKED = 1

BFLOAT16, FLOAT16, INT8 = np.dtype(np.uint16), np.dtype(np.float16), np.dtype(np.uint8)
REMAINDER = np.dtype(np.int16)  # of a bfloat16 parameter


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is ml_dtypes.bfloat16, which need not be imported."""
    return dtype.name == "bfloat16" and dtype.itemsize == 2


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16 or bfloat16, also as the plain arrays of slots have that."""
    return dtype in (FLOAT16, BFLOAT16) or is_bfloat16(dtype)


def codes_of(array: Array) -> Array:
    """The array, or if it is of bfloat16 a view of it as the backends take that."""
    return array.view(BFLOAT16) if is_bfloat16(array.dtype) else array


def computed_in(param: Array) -> np.dtype[Any]:
    """The dtype in which a plain parameter is stepped."""
    return np.dtype(np.float32) if is_half(param.dtype) else param.dtype


def numbers_of(array: Array) -> Array:
    """An array as it is, or the float32 numbers of one in half precision."""
    if codes_of(array).dtype == BFLOAT16:
        return bfloat16_numbers(codes_of(array))
    return array.astype(np.float32) if array.dtype == FLOAT16 else array


def n_blocks(n: int) -> int:
    """The blocks of n numbers in 8 bits."""
    return -(-n // BLOCK)


def dither(seed: int, step: int, state: int, index: Array) -> Array:
    """What decides how each number is rounded: 32 bits, spread evenly.

    They depend on nothing but the seed, the number of the step, that of the state among the
    rule's, and the number's index in the whole array. With another index they go through a Weyl
    sequence, of which any stretch is even; where it begins is random.
    """
    key = _mixed(_mixed(_mixed(seed) + step) + state) >> 32
    return np.uint32(key) + index.astype(np.uint32) * np.uint32(DITHER_STEP)


def _mixed(x: int) -> int:
    """The finalizer of Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
    2014, with the constants of splitmix64.
    """
    most = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & most
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & most
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & most
    return x ^ x >> 31


def _bits(numbers: Array) -> Array:
    return numbers.view(np.uint32)


def _numbers(bits: Array) -> Array:
    return bits.astype(np.uint32, copy=False).view(np.float32)


# bfloat16: csrc/codecs/bfloat16.h


def bfloat16_numbers(codes: Array) -> Array:
    """The float32 numbers of codes."""
    return _numbers(codes.astype(np.uint32) << 16)


def bfloat16_codes(numbers: Array, random: Array) -> Array:
    """The codes of float32 numbers, rounded up or down so that the mean is right."""
    bits = _bits(numbers)
    added = np.where((bits & MAGNITUDE) < 0x7F7F0000, random >> 16, 0)
    return ((bits + added) >> 16).astype(np.uint16)


def master_of_bfloat16(param: Array, remainder: Array) -> Array:
    """The float32 numbers of which parameters are the upper halves."""
    size = param & 0x7FFF
    least = np.where(size == 0, 0, -(2**15))
    most = np.where(size < 0x7F80, 2**15 - 1, 0)
    difference = np.clip(remainder.astype(np.int32), least, most)
    return _numbers((param.astype(np.uint32) << 16) + difference.astype(np.uint32))


def split_master(master: Array) -> tuple[Array, Array]:
    """The bfloat16 parameters nearest to float32 numbers, ties away from zero; what they lack."""
    bits = _bits(master)
    kept = np.where((bits & MAGNITUDE) > INFINITE, (bits | 0x00400000) & 0xFFFF0000, bits)
    kept = kept.astype(np.uint32)
    return ((kept + np.uint32(0x8000)) >> 16).astype(np.uint16), kept.astype(np.uint16).view(
        np.int16
    )


def master_of_float16(param: Array, master: Array) -> Array:
    """The float32 numbers beside parameters, or what a user has written since."""
    same = master.astype(np.float16).view(np.uint16) == param.view(np.uint16)
    return np.where(same, master, param.astype(np.float32))


# 8 bits: csrc/codecs/int8.h


def positive_numbers(blocks: Array) -> Array:
    """The float32 numbers of blocks of codes; they are not negative."""
    codes = blocks[:, 1:].astype(np.uint32)
    unit = (blocks[:, :1] & 0xFE).astype(np.uint32) << 23
    with np.errstate(all="ignore"):  # of damaged codes
        numbers = _numbers((codes << 20) + unit) - _numbers(unit)
    infinite = (blocks[:, :1] & MARKED != 0) & (codes == 255)
    return np.where(infinite, np.float32(np.inf), numbers).reshape(-1)


def positive_codes(numbers: Array, random: Array) -> Array:
    """Blocks of codes of float32 numbers that are not negative."""
    bits = _bits(numbers).reshape(-1, BLOCK)
    marked, tame = _tamed(bits, (bits & MAGNITUDE).max(axis=1, keepdims=True), POSITIVE_MOST)
    top = (tame & MAGNITUDE).astype(np.int32).max(axis=1, keepdims=True)
    scale = np.maximum(((top + 2**20 - 1) >> 23) - 30, 4) & ~1
    least = (scale - 3) << 23
    sizes = tame.view(np.int32)
    raised = np.where(sizes > 0, np.maximum(sizes, least), 0).astype(np.int32)
    sums = _bits(_numbers(raised) + _numbers(scale << 23))
    codes = ((sums + (random.reshape(-1, BLOCK) >> 12)) >> 20) - (scale.astype(np.uint32) << 3)
    return _marked_blocks(scale, marked, codes, bits, 255)


def _tamed(bits: Array, top: Array, most: int) -> tuple[Array, Array]:
    """Which blocks have numbers that they cannot hold, and what takes their place."""
    marked = top > most
    sizes = bits & MAGNITUDE
    tame = np.where(sizes < INFINITE, np.minimum(sizes, most), 0) | bits & ~np.uint32(MAGNITUDE)
    return marked, np.where(marked, tame, bits).astype(np.uint32)


def _marked_blocks(scale: Array, marked: Array, codes: Array, bits: Array, largest: int) -> Array:
    """Blocks; in those that are marked, the largest code stands for what is not finite."""
    kept = np.minimum(codes & largest, largest - 1) | codes & ~np.uint32(largest)
    kept = np.where((bits & MAGNITUDE) < INFINITE, kept, largest)
    codes = np.where(marked, kept, codes)
    return np.hstack([scale | marked, codes]).astype(np.uint8)


def units_of(blocks: Array, root: bool) -> Array:
    """How many powers of two numbers, or their roots, are above the smallest of their block.

    That is the smallest for which there is a code.
    """
    units: Array = blocks[:, 1:] >> (4 if root else 3)
    return units


def signed_numbers(blocks: Array, units: Array | int) -> Array:
    """The float32 numbers of blocks of codes, each in its unit."""
    codes = (blocks[:, 1:] & 0x7F).astype(np.uint32)
    sums = _numbers(codes << 19 | np.uint32(SIGNED_BASE)) - np.float32(2**-7)
    scales = (blocks[:, :1] & 0xFE).astype(np.uint32) + units
    with np.errstate(all="ignore"):
        sizes = _bits(sums * _numbers(scales << 23))
    bits = sizes | (blocks[:, 1:] & 0x80).astype(np.uint32) << 24
    nan = (blocks[:, :1] & MARKED != 0) & (codes == 127)
    return _numbers(np.where(nan, QUIET_NAN, bits)).reshape(-1)


def signed_codes(numbers: Array, units: Array | int, random: Array) -> Array:
    """Blocks of codes of float32 numbers, each in its unit."""
    bits = _bits(numbers).reshape(-1, BLOCK)
    exponents = np.asarray(units, np.int32) << 23

    def top_of(bits: Array) -> Array:
        sizes = (bits & MAGNITUDE).astype(np.int32) - exponents
        top: Array = np.maximum(sizes.max(axis=1, keepdims=True), 0)
        return top

    marked, tame = _tamed(bits, top_of(bits), SIGNED_MOST)
    scale = np.maximum(((top_of(tame) + 0x8FFFF) >> 23) + 1, 12) & ~1
    with np.errstate(under="ignore"):
        scaled = _numbers(tame & MAGNITUDE) * _numbers(((254 - scale) << 23) - exponents)
    sums = _bits(scaled + np.float32(2**-7)) + (random.reshape(-1, BLOCK) >> 13)
    codes = sums >> 19 & 0x7F | tame >> 24 & 0x80
    return _marked_blocks(scale, marked, codes, bits, 127)


class Codes:
    """Those streams of a part of an array that are stored as codes, with room for the numbers.

    Parameters
    ----------
    rule : Rule
    param, rest : ndarray, shape (n,)
        The parameter and what it lacks of a float32, or None.
    state : sequence of ndarray
        Of shape (n,) or, with 8 bits, (blocks, 65).
    index : ndarray of uint32, shape (n,)
        Where in the array the numbers are.
    """

    def __init__(
        self,
        rule: Any,
        param: Array,
        rest: Array | None,
        state: Sequence[Array | None],
        index: Array,
    ) -> None:
        self._rule, self._param, self._rest, self._state = rule, param, rest, state
        self._index = index
        n = param.size
        self.param = param if rest is None else np.empty(n, np.float32)
        self._coded = [k for k, array in enumerate(state) if is_code(array)]
        #: Whole blocks of numbers; those that are not there are zeros.
        self._room = {k: np.zeros(n_blocks(n) * BLOCK, np.float32) for k in self._coded}
        self._whole = np.arange(n_blocks(n) * BLOCK, dtype=np.uint32)
        if n:
            self._whole[:n] = index
        #: What the rule gets.
        self.state = tuple(
            self._room[k][:n] if k in self._room else array for k, array in enumerate(state)
        )

    def decode(self) -> None:
        """Compute the numbers that the codes stand for."""
        n = self._param.size
        if self._rest is not None:
            of = master_of_float16 if self._param.dtype == FLOAT16 else master_of_bfloat16
            self.param[:] = of(self._param, self._rest)
        for k in self._coded:
            codes: Any = self._state[k]
            if codes.dtype == BFLOAT16:
                numbers = bfloat16_numbers(codes)
            elif self._rule.states[k] in self._rule.positive:
                numbers = positive_numbers(codes)
            else:
                numbers = signed_numbers(codes, self._units(k))
            self._room[k][:n] = numbers[:n]

    def encode(self, seed: int, step: int) -> None:
        """Encode what the rule made of them; units come before what is in them."""
        n = self._param.size
        if self._rest is not None and self._param.dtype == FLOAT16:
            self._rest[:] = self.param
            self._param[:] = self.param.astype(np.float16)
        elif self._rest is not None:
            self._param[:], self._rest[:] = split_master(self.param)
        for k in sorted(self._coded, key=lambda k: self._rule.states[k] in self._rule.units):
            codes, numbers = self._state[k], self._room[k]
            assert codes is not None
            random = dither(seed, step, k, self._whole)
            if codes.dtype == BFLOAT16:
                codes[:] = bfloat16_codes(numbers[:n], random[:n])
            elif self._rule.states[k] in self._rule.positive:
                codes[:] = positive_codes(numbers, random)
            else:
                codes[:] = signed_codes(numbers, self._units(k), random)

    def _units(self, k: int) -> Array | int:
        unit = self._rule.units.get(self._rule.states[k])
        if unit is None:
            return 0
        return units_of(self._state[self._rule.states.index(unit)], self._rule.roots)


def is_code(array: Array | None) -> bool:
    """Whether an array of state is stored as codes."""
    return array is not None and array.dtype in (BFLOAT16, INT8)
