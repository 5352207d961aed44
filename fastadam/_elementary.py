"""Powers and a cosine that are the same double on every machine.

IEEE 754 fixes sums, products, quotients and square roots. The last bit of what math.cos, ``**``
and C's pow() give depends on the C library, and in glibc on the CPU.
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from functools import lru_cache

_STRIDE = 32


class Power:
    """Whole powers of numbers from 0 to 1; the twin of csrc/power.c, with its comments."""

    def __init__(self) -> None:
        self._last = 0.0, 0, 0, 0

    def __call__(self, base: float, n: int) -> float:
        """base**n, where n is at least 1."""
        if base == 1.0:
            return 1.0
        first = 1 if n < _STRIDE else n - n % _STRIDE
        last_base, last_n, exact_base, power = self._last
        if last_base != base or not first <= last_n <= n:
            exact_base = int(base * 2.0**128)
            last_n, power = first, _squared_up(exact_base, first)
        for _ in range(last_n, n):
            power = power * exact_base >> 128
        self._last = base, n, exact_base, power  # as one, since Ctrl-C may come between lines
        head, tail = power >> 75, power >> 32 & (1 << 43) - 1
        return head * 2.0**-53 + tail * 2.0**-96


def _squared_up(base: int, n: int) -> int:
    x = base
    for bit in f"{n:b}"[1:]:
        x = x * x >> 128
        if bit == "1":
            x = x * base >> 128
    return x


def root_power(base: float, exponent: float) -> float:
    """base**exponent, both at least 0; the twin of fa_real_power in csrc/power.c."""
    power, square, root = 1.0, base, base
    exponent = min(exponent, 2.0**62)
    whole = int(exponent)
    while whole:
        if whole & 1:
            power *= square
        square *= square
        whole //= 2
    digits = exponent - math.floor(exponent)
    while digits > 0:
        digits *= 2
        root = math.sqrt(root)
        if digits >= 1:
            power *= root
        digits -= math.floor(digits)
    return power


@lru_cache(maxsize=256)
def real_power(base: float, exponent: float) -> float:
    """base**exponent, rounded to nearest, for numbers that are not negative.

    ln and exp of the decimal module are correctly rounded, to 25 digits, which take half the time
    of 40 and are 8 more than a double has.
    """
    if base == 0.0 or exponent in (0.0, 1.0):
        return float(base**exponent)
    context = Context(prec=25, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
    logarithm = context.multiply(_ln(base), Decimal(exponent))
    return float(context.exp(logarithm))


@lru_cache(maxsize=32)
def half_life_ratio(first: float, second: float) -> float:
    """The half-life of an average with one decay rate, divided by that with the other: ln(second)
    / ln(first), for rates from 0 to less than 1, where that of 0 is 0.
    """
    if first == 0.0 or second == 0.0:
        return 0.0 if first == 0.0 else 1.0
    return float(Context(prec=25).divide(_ln(second), _ln(first)))


@lru_cache(maxsize=32)
def _ln(base: float) -> Decimal:
    return Decimal(base).ln(Context(prec=30))


def half_cosine(x: float) -> float:
    """(1 - cos(pi*x))/2 for x from 0 to 1, exact at 0, 1/2 and 1."""
    if x > 0.5:
        return 1.0 - half_cosine(1.0 - x)
    if x > 0.25:
        return 0.5 - 0.5 * _sine(0.5 - x)
    root = _sine(0.5 * x)
    return root * root


def _sine(x: float) -> float:
    """sin(pi*x) for x up to 1/4, by the Taylor series up to x**19."""
    angle = math.pi * x
    square, factor = angle * angle, 1.0
    for k in range(19, 1, -2):
        factor = 1.0 - square * factor / (k * (k - 1))
    return angle * factor
