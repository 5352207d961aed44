"""Storage formats with fewer bits than a float32: the twin of csrc/codecs/ and csrc/coded.c.

An array's dtype says how its numbers are stored:

=========  =====================================================================================
dtype      numbers
=========  =====================================================================================
uint16     bfloat16, the upper half of a float32
int16      what bfloat16 parameters lack of a float32: to be added to its bits
float16    as NumPy has them
uint8      8 bits, in blocks of 64: an array of shape (blocks, 65), where each block begins with
           a byte that scales it. The last block has zeros for numbers that are not there.
=========  =====================================================================================

Codes are decoded to float32, the rule works with that, and what comes out is encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastadam._types import Array

BLOCK = 64  # FA_CODE_BLOCK in csrc/fastadam.h
DITHER_STEP, DITHER_STEP_16 = 0x9E3779B1, 0x9E37  # 2^32 and 2^16 divided by the golden ratio
MAGNITUDE, INFINITE, QUIET_NAN = 0x7FFFFFFF, 0x7F800000, 0x7FC00000
POSITIVE_MOST, SIGNED_MOST, SIGNED_BASE = 0x7F6FFFFF, 0x6F770000, 0x3C000000
MARKED = 1

BFLOAT16, FLOAT16, INT8 = np.dtype(np.uint16), np.dtype(np.float16), np.dtype(np.uint8)
REMAINDER = np.dtype(np.int16)  # of a bfloat16 parameter


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is ml_dtypes.bfloat16, which need not be imported."""
    return dtype.itemsize == 2 and dtype.name == "bfloat16"


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


def dither(seed: int, step: int, state: int, index: Array, codec: np.dtype[Any]) -> Array:
    """What decides how each number is rounded: 32 bits, or 16 for bfloat16, spread evenly.

    They depend on nothing but the seed, the number of the step, that of the state among the
    rule's, and the number's index in the whole array. With another index they go through a Weyl
    sequence, of which any stretch is even; where it begins is random.
    """
    key = _mixed(_mixed(_mixed(seed) + step) + state) >> 32
    if codec == BFLOAT16:
        return np.uint16(key >> 16) + index.astype(np.uint16) * np.uint16(DITHER_STEP_16)
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
    # NumPy's arithmetic makes a number of an array without axes.
    return np.asarray(bits, np.uint32).view(np.float32)


# bfloat16: csrc/codecs/bfloat16.h


def bfloat16_numbers(codes: Array) -> Array:
    """The float32 numbers of codes."""
    return _numbers(codes.astype(np.uint32) << 16)


def bfloat16_codes(numbers: Array, random: Array) -> Array:
    """The codes of float32 numbers, rounded up or down so that the mean is right."""
    bits = _bits(numbers)
    added = np.where((bits & MAGNITUDE) < 0x7F7F0000, random, 0).astype(np.uint32)
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


def in_blocks(vector: Array) -> Array:
    """A vector's numbers in whole blocks, with zeros behind."""
    whole = np.zeros((n_blocks(vector.size), BLOCK), vector.dtype)
    whole.reshape(-1)[: vector.size] = vector
    return whole


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
    bits = in_blocks(_bits(numbers))
    marked, tame = _tamed(bits, (bits & MAGNITUDE).max(axis=1, keepdims=True), POSITIVE_MOST)
    top = (tame & MAGNITUDE).astype(np.int32).max(axis=1, keepdims=True)
    scale = np.maximum(((top + 2**20 - 1) >> 23) - 30, 4) & ~1
    least = (scale - 3) << 23
    sizes = tame.view(np.int32)
    raised = np.where(sizes > 0, np.maximum(sizes, least), 0).astype(np.int32)
    sums = _bits(_numbers(raised) + _numbers(scale << 23))
    codes = ((sums + (in_blocks(random) >> 12)) >> 20) - (scale.astype(np.uint32) << 3)
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
    bits = in_blocks(_bits(numbers))
    exponents = np.asarray(units, np.int32) << 23

    def top_of(bits: Array) -> Array:
        sizes = (bits & MAGNITUDE).astype(np.int32) - exponents
        top: Array = np.maximum(sizes.max(axis=1, keepdims=True), 0)
        return top

    marked, tame = _tamed(bits, top_of(bits), SIGNED_MOST)
    scale = np.maximum(((top_of(tame) + 0x8FFFF) >> 23) + 1, 12) & ~1
    with np.errstate(under="ignore"):
        scaled = _numbers(tame & MAGNITUDE) * _numbers(((254 - scale) << 23) - exponents)
    sums = _bits(scaled + np.float32(2**-7)) + (in_blocks(random) >> 13)
    codes = sums >> 19 & 0x7F | tame >> 24 & 0x80
    return _marked_blocks(scale, marked, codes, bits, 127)


# Arrays


def is_code(array: Array | None) -> bool:
    """Whether an array of state is stored as codes."""
    return array is not None and array.dtype in (BFLOAT16, INT8)


def pieces(streams: Sequence[Array | None], n: int, size: int) -> Iterator[tuple[slice, list[Any]]]:
    """Streams of n elements in pieces of `size`, which is whole blocks, and where each piece is."""
    for start in range(0, n, size):
        place = slice(start, min(start + size, n))
        blocks = slice(start // BLOCK, n_blocks(place.stop))
        parts = [
            None if stream is None else stream[blocks if stream.dtype == INT8 else place]
            for stream in streams
        ]
        yield place, parts


def master_of(param: Array, rest: Array | None) -> Array:
    """The float32 numbers of half-precision parameters, or others as they are."""
    if rest is None:
        return param
    of = master_of_float16 if param.dtype == FLOAT16 else master_of_bfloat16
    return of(param, rest)


def keep_master(master: Array, param: Array, rest: Array | None) -> None:
    """Write what `master_of` would give back."""
    if rest is None:
        return
    if param.dtype == FLOAT16:
        param[...], rest[...] = master.astype(np.float16), master
    else:
        param[...], rest[...] = split_master(master)


def decoded(rule: Any, state: Sequence[Array | None], n: int) -> list[Array | None]:
    """The state of n elements: the numbers that codes stand for, other arrays as they are."""
    return [
        _numbers_of_codes(rule, state, k)[:n] if is_code(array) else array
        for k, array in enumerate(state)
    ]


def _numbers_of_codes(rule: Any, state: Sequence[Any], k: int) -> Array:
    if state[k].dtype == BFLOAT16:
        return bfloat16_numbers(state[k])
    if rule.states[k] in rule.positive:
        return positive_numbers(state[k])
    return signed_numbers(state[k], _units(rule, state, k))


def encode(
    rule: Any, numbers: Sequence[Any], state: Sequence[Any], index: Array, seed: int, step: int
) -> None:
    """Write the codes of state; `index` is where its elements are in the whole array."""
    coded = [k for k, array in enumerate(state) if is_code(array)]
    for k in sorted(coded, key=lambda k: rule.states[k] in rule.units):  # units come first
        codes = state[k]
        random = dither(seed, step, k, index, codes.dtype)
        if codes.dtype == BFLOAT16:
            codes[:] = bfloat16_codes(numbers[k], random)
        elif rule.states[k] in rule.positive:
            codes[:] = positive_codes(numbers[k], random)
        else:
            codes[:] = signed_codes(numbers[k], _units(rule, state, k), random)


def _units(rule: Any, state: Sequence[Any], k: int) -> Array | int:
    unit = rule.units.get(rule.states[k])
    return 0 if unit is None else units_of(state[rule.states.index(unit)], rule.roots)
