"""Oracles of the storage formats, written from their description and not from the code under test.

Numbers are taken apart with NumPy's float64, in which all of this is exact.
"""

import numpy as np
from members import BY_NAME, MEMBERS
from reference import bits

BLOCK = 64  # numbers that share a scale in 8 bits
LARGEST_BFLOAT16 = float.fromhex("0x1.FEp127")
#: In 8 bits what is larger is stored as this: a number that is never negative, and a signed one.
LARGEST_POSITIVE = float.fromhex("0x1.DFFFFEp127")
LARGEST_SIGNED = float.fromhex("0x1.EEp95")


def slot(opt, i=0):
    """What an optimizer has of its array of that number: `state` and `rest` are as stored."""
    return opt._batch.arrays.slots[i]


def dither(seed, step, state, index, state_dtype):
    """The bits that decide how a number is rounded, of its index in the whole array.

    splitmix64 of the seed, then of that plus the step, then of that plus the state's number; of its
    upper 32 bits, or 16 for bfloat16, as many are where a Weyl sequence in steps of that power of
    two divided by the golden ratio begins.
    """
    key = 0
    for part in (seed, step, state):
        key = splitmix64((key + part) % 2**64)
    if state_dtype == "bfloat16":
        return ((key >> 48) + index.astype(object) * 0x9E37) % 2**16
    return ((key >> 32) + index.astype(object) * 0x9E3779B1) % 2**32


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def share(random, width, of=32):
    """The upper bits of so many random ones, as a fraction."""
    return (random >> (of - width)).astype(np.float64) / 2**width


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
    goes_up = lacking / 2**16 + share(random, 16, of=16) >= 1
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
    """Blocks that begin with the exponent of their unit, and 1 if 255 is what is not finite."""
    scale, marked, codes = taken_apart(blocks)
    with np.errstate(over="ignore"):  # of codes that stand for no finite number
        size = np.ldexp(places_apart(codes, 8), scale - 127).astype(np.float32)
    return np.where(marked & (codes == 255), np.float32(np.inf), size).reshape(-1)


def positive_codes(numbers, random):
    """Blocks of numbers that are not negative; NaNs become infinite."""
    x = in_blocks(numbers)
    marked, tame = tamed(x, np.abs(x), LARGEST_POSITIVE)
    tame = np.where(tame > 0, tame, 0)
    # The least even scale in which no number is above the largest code.
    top = np.ldexp(tame.max(1, keepdims=True), 127)
    scale = least_scale(range(4, 226, 2), lambda s: top <= np.ldexp(1.875, s + 31))
    in_units = np.where(tame > 0, np.maximum(np.ldexp(tame, 127 - scale), 1 / 8), 0)
    codes = np.floor(places(in_units, 8) + share(in_blocks(random), 20))
    return whole_blocks(scale, marked, codes, x, 255)


def units(blocks, root):
    """The powers of two of the numbers beside which signed ones are stored, or of their roots."""
    powers = blocks[:, 1:].astype(np.int64) // 8
    return powers // 2 if root else powers


def signed_numbers(blocks, unit):
    """Blocks that begin with an exponent 7 above that of their unit, and as above with a 1."""
    scale, marked, codes = taken_apart(blocks)
    size = codes % 128
    with np.errstate(over="ignore"):  # the same
        numbers = np.ldexp(places_apart(size, 16), scale + unit - 127 - 7).astype(np.float32)
    numbers = np.where(codes >= 128, -numbers, numbers)
    return np.where(marked & (size == 127), np.float32(np.nan), numbers).reshape(-1)


def signed_codes(numbers, unit, random):
    """Blocks of numbers; infinite ones become NaNs."""
    x = in_blocks(numbers)
    unit = np.broadcast_to(unit, x.shape)
    marked, tame = tamed(x, np.ldexp(np.abs(x).astype(np.float64), -unit), LARGEST_SIGNED)
    # The least even scale in which no number is above the largest code in its unit.
    top = np.ldexp(np.ldexp(np.abs(tame), -unit).max(1, keepdims=True), 127)
    scale = least_scale(range(12, 224, 2), lambda s: top <= np.ldexp(247.0, s - 7))
    in_units = np.ldexp(np.abs(tame), 127 + 7 - scale - unit)
    codes = np.floor(places(in_units, 16) + share(in_blocks(random), 19))
    return whole_blocks(scale, marked, codes + 128 * np.signbit(x), x, 127)


def taken_apart(blocks):
    scale = blocks[:, :1].astype(np.int64)
    return scale // 2 * 2, scale % 2 == 1, blocks[:, 1:].astype(np.int64)


def places_apart(codes, steps):
    """What codes stand for in their unit: there are so many steps from a power of two to the next,
    1 is the first, and 1 is subtracted."""
    return np.ldexp(1 + codes % steps / steps, codes // steps) - 1


def places(in_units, steps):
    """The opposite; 1 is added in float32, which is the only rounding before that to codes."""
    sums = in_units.astype(np.float32) + np.float32(1)
    mantissa, exponent = np.frexp(sums.astype(np.float64))
    return (exponent - 1) * steps + (mantissa * 2 - 1) * steps


def tamed(x, sizes, most):
    """Whether a block has a number that it cannot hold; and then others in their place."""
    marked = ~(sizes.max(1, keepdims=True) <= most)  # also of a NaN
    x = x.astype(np.float64)
    kept = np.where(np.isfinite(x), np.clip(x, -most, most), 0)
    return marked, np.where(marked, kept, x)


def least_scale(scales, is_enough):
    scales = list(scales)
    enough = np.stack([is_enough(s) for s in scales])
    assert enough[-1].all()
    return np.array(scales)[enough.argmax(0)]


def whole_blocks(scale, marked, codes, x, largest):
    """Blocks; in those that are marked, the largest code is what is not finite, and only that."""
    codes = codes.astype(np.int64)
    sign, size = codes // (largest + 1) * (largest + 1), codes % (largest + 1)
    kept = np.where(np.isfinite(x), sign + np.minimum(size, largest - 1), largest)
    return np.hstack([scale + marked, np.where(marked, kept, codes)]).astype(np.uint8)


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

#: Those that are never negative.
POSITIVE = {"exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg"}
STATES = {member.name: member.states for member in MEMBERS}


def codes_of(opt, i=0):
    """Copies of an array's state as it is stored, by name, flat but for blocks of 8 bits."""
    arrays = zip(STATES[type(opt).__name__], slot(opt, i).state, strict=True)
    return {
        name: array.copy() if array.dtype == np.uint8 else array.ravel(order="K").copy()
        for name, array in arrays
        if array is not None
    }


def unit_of(member, name, codes):
    beside = STATES[member][name]
    return 0 if beside is None else units(codes[beside], root=beside != "exp_inf")


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
        if name in BY_NAME[member].exact:
            codes[name] = x
            continue
        index = np.arange(x.size if state_dtype == "bfloat16" else -(-x.size // BLOCK) * BLOCK)
        number = list(STATES[member]).index(name)
        random = dither(seed, step, number, index, state_dtype).astype(np.int64)
        if state_dtype == "bfloat16":
            codes[name] = bfloat16_moments(x, random)
        elif name in POSITIVE:
            codes[name] = positive_codes(x, random)
        else:
            codes[name] = signed_codes(x, unit_of(member, name, codes), random)
    return codes
