"""Oracles of the storage formats, written from their description and not from the code under test.

Numbers are taken apart with NumPy's float64, in which all of this is exact.
"""

import numpy as np
from reference import bits

BLOCK = 64  # numbers that share a scale in 8 bits
LARGEST_BFLOAT16 = float.fromhex("0x1.FEp127")
LARGEST_IN_8_BITS = float.fromhex("0x1.9FFFFEp127")  # 2.8e38: what is larger is stored as this


def slot(opt, i=0):
    """What an optimizer has of its array of that number: `state` and `rest` are as stored."""
    return opt._batch.arrays.slots[i]


def dither(seed, step, state, index):
    """The 32 bits that decide how a number is rounded, of its index in the whole array.

    splitmix64 of the seed, then of that plus the step, then of that plus the state's number; its
    upper half is where a Weyl sequence in steps of 2**32 divided by the golden ratio begins.
    """
    key = 0
    for part in (seed, step, state):
        key = splitmix64((key + part) % 2**64)
    return ((key >> 32) + index.astype(object) * 0x9E3779B1) % 2**32


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def share(random, width):
    """The upper bits of 32 random ones, as a fraction."""
    return (random >> (32 - width)).astype(np.float64) / 2**width


# bfloat16


def bfloat16_numbers(codes):
    """What bfloat16 codes stand for: a sign, 8 bits of an exponent, 7 of a mantissa."""
    codes = codes.astype(np.int64)
    sign = np.where(codes >= 0x8000, -1.0, 1.0)
    exponent, mantissa = codes >> 7 & 0xFF, codes & 0x7F
    size = np.ldexp(
        np.where(exponent == 0, 0.0, 1.0) + mantissa / 128, np.maximum(exponent, 1) - 127
    )
    size = np.where(exponent == 255, np.where(mantissa == 0, np.inf, np.nan), size)
    return (sign * size).astype(np.float32)


def bfloat16_moments(numbers, random):
    """Codes of float32 numbers, of which the neighbour farther from zero is taken with the
    probability that makes the mean right; beyond the largest finite code none is."""
    bits = numbers.view(np.uint32).astype(np.int64)
    toward_zero, lacking = bits // 2**16, bits % 2**16
    goes_up = lacking / 2**16 + share(random, 16) >= 1
    goes_up &= np.abs(numbers.astype(np.float64)) < LARGEST_BFLOAT16  # false for NaNs, too
    return (toward_zero + goes_up).astype(np.uint16)


def bfloat16_params(numbers):
    """The bfloat16 nearest to float32 numbers, ties away from zero."""
    bits = numbers.view(np.uint32).astype(np.int64)
    with np.errstate(invalid="ignore"):
        below, rest = bits // 2**16, bits % 2**16
    codes = below + (rest >= 2**15)
    quiet = below | 0x40
    return np.where(np.isnan(numbers), quiet, codes).astype(np.uint16)


# 8 bits


def positive_numbers(blocks):
    """Blocks that begin with the exponent of the first power of two beyond most of its numbers."""
    scale, codes = blocks[:, :1].astype(np.int64), blocks[:, 1:].astype(np.int64)
    size = np.ldexp(1 + codes % 8 / 8, codes // 8 + scale - 31 - 127)
    size = np.where(codes == 0, 0, np.where(codes == 255, np.inf, size))
    return size.astype(np.float32).reshape(-1)


def positive_codes(numbers, random):
    """Blocks of numbers that are not negative; NaNs become infinite."""
    x = in_blocks(numbers)
    x = np.where(np.isnan(x), np.inf, np.abs(x)).astype(np.float64)
    largest = np.where(np.isfinite(x), np.minimum(x, LARGEST_IN_8_BITS), 0).max(1, keepdims=True)
    # The least scale with a finite code, 254, from which on nothing has to be rounded up.
    scale = np.zeros(largest.shape, np.int64)
    for s in range(1, 255):
        scale[np.ldexp(1.75, s - 1 - 127) < largest] = s
    x_capped = np.minimum(x, LARGEST_IN_8_BITS)
    mantissa, exponent = np.frexp(np.where(x_capped > 0, x_capped, 1))
    place = (exponent - 1 + 31 + 127 - scale) * 8 + (mantissa * 2 - 1) * 8
    codes = np.floor(place + share(in_blocks(random), 20))
    codes = np.where(x == 0, 0, np.where(np.isinf(x), 255, np.maximum(codes, 1)))
    return np.hstack([scale, codes]).astype(np.uint8)


def units(blocks, root):
    """The powers of two of the numbers beside which signed ones are stored, or of their roots."""
    scale, powers = blocks[:, :1].astype(np.int64), blocks[:, 1:].astype(np.int64) // 8
    return (powers + scale % 2) // 2 if root else powers


def signed_numbers(blocks, unit):
    """Blocks that begin with the exponent of a scale."""
    scale, codes = blocks[:, :1].astype(np.int64), blocks[:, 1:].astype(np.int64)
    size = codes % 128
    scaled = np.ldexp(1 + size % 16 / 16, size // 16) - 1
    numbers = np.ldexp(np.where(size == 127, np.nan, scaled), scale + unit - 127)
    return np.where(codes >= 128, -numbers, numbers).astype(np.float32).reshape(-1)


def signed_codes(numbers, unit, random):
    """Blocks of numbers; infinite ones become NaNs."""
    x = in_blocks(numbers).astype(np.float64)
    sizes, finite = np.abs(x), np.isfinite(x)
    beside = np.where(finite, sizes, 0) * np.exp2(-np.broadcast_to(unit, x.shape).astype(float))
    # The least scale in which the largest number stays below 1.75 * 2**6.
    largest = beside.max(1, keepdims=True)
    scale = np.full(largest.shape, 5)
    for s in range(5, 218):
        scale[largest >= np.ldexp(1.75, 6 + s - 127)] = s + 1
    scaled = np.minimum(np.ldexp(beside, 127 - scale), 224)
    shifted = scaled.astype(np.float32) + np.float32(1)  # rounded once, before it is a code
    mantissa, exponent = np.frexp(shifted.astype(np.float64))
    place = (exponent - 1) * 16 + (mantissa * 2 - 1) * 16
    codes = np.floor(place + share(in_blocks(random), 19)) + 128 * np.signbit(x)
    return np.hstack([scale, np.where(finite, codes, 127)]).astype(np.uint8)


def in_blocks(vector):
    """Whole blocks of a vector's numbers, with zeros behind."""
    whole = np.zeros(-(-vector.size // BLOCK) * BLOCK, vector.dtype)
    whole[: vector.size] = vector
    return whole.reshape(-1, BLOCK)


def code_bits(array):
    """The bytes of bfloat16, float16 or other numbers, of which all NaNs are made one."""
    array = np.array(array)
    if array.dtype == np.uint16 or array.dtype.name == "bfloat16":
        codes = array.view(np.uint16)
        codes[codes & 0x7FFF > 0x7F80] = 0x7FC0
        array = codes
    return bits(array)


# The arrays of state

#: Those that are never negative; and what a signed one is stored beside, if that has a root.
POSITIVE = {"exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg"}
BESIDE = {"Adam": "exp_avg_sq", "AdamW": "exp_avg_sq", "NAdam": "exp_avg_sq", "RAdam": "exp_avg_sq",
          "Adamax": "exp_inf"}  # fmt: skip
#: In the order in which they are numbered.
STATES = {
    "Adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "NAdam": ("exp_avg", "exp_avg_sq"),
    "RAdam": ("exp_avg", "exp_avg_sq"),
    "Adamax": ("exp_avg", "exp_inf"),
    "RMSprop": ("square_avg", "momentum_buffer", "grad_avg"),
    "SGD": ("momentum_buffer",),
}


def codes_of(opt, i=0):
    """Copies of an array's state as it is stored, by name, flat but for blocks of 8 bits."""
    arrays = zip(STATES[type(opt).__name__], slot(opt, i).state, strict=True)
    return {
        name: array.copy() if array.dtype == np.uint8 else array.ravel(order="K").copy()
        for name, array in arrays
        if array is not None
    }


def unit_of(member, name, codes):
    beside = BESIDE.get(member) if name == "exp_avg" else None
    return 0 if beside is None else units(codes[beside], beside != "exp_inf")


def decoded(member, codes, n):
    """The float32 numbers of n elements' state."""
    numbers = {}
    for name, array in codes.items():
        if array.dtype == np.uint16:
            numbers[name] = bfloat16_numbers(array)
        elif array.dtype == np.uint8 and name in POSITIVE:
            numbers[name] = positive_numbers(array)[:n]
        elif array.dtype == np.uint8:
            numbers[name] = signed_numbers(array, unit_of(member, name, codes))[:n]
        else:
            numbers[name] = array
    return numbers


def encoded(member, numbers, state_dtype, seed, step):
    """The codes of float32 state after a step."""
    codes = {}
    for name in sorted(numbers, key=lambda name: name not in POSITIVE):
        x = numbers[name]
        index = np.arange(x.size if state_dtype == "bfloat16" else -(-x.size // BLOCK) * BLOCK)
        random = dither(seed, step, STATES[member].index(name), index).astype(np.int64)
        if state_dtype == "bfloat16":
            codes[name] = bfloat16_moments(x, random)
        elif name in POSITIVE:
            codes[name] = positive_codes(x, random)
        else:
            codes[name] = signed_codes(x, unit_of(member, name, codes), random)
    return codes
