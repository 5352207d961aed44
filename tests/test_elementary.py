"""Powers and the cosine against the decimal module, and C's powers against Python's."""

import math
import random
import sys
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal

import numpy as np
import pytest

import fastadam
from fastadam._elementary import Power, half_cosine, half_life_ratio, real_power, root_power

DIGITS = Context(prec=60, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def exact_power(base, exponent):
    if base in (0, 1):
        return Decimal(base)
    return DIGITS.exp(DIGITS.multiply(DIGITS.ln(Decimal(base)), Decimal(exponent)))


def exact_half_cosine(x):
    with_x = DIGITS.multiply(PI, Decimal(x))
    total, term, k = Decimal(0), Decimal(1), 0
    while abs(term) > Decimal("1e-58"):
        total = DIGITS.add(total, term)
        k += 2
        term = DIGITS.divide(-term * DIGITS.multiply(with_x, with_x), Decimal(k * (k - 1)))
    return DIGITS.divide(DIGITS.subtract(Decimal(1), total), Decimal(2))


def bases(count):
    """From 0 to 1, most of them close to 1."""
    draw = random.Random(1)
    near = [1 - 10 ** -draw.uniform(0, 9) for _ in range(count)]
    as_float32 = [float(np.float32(base)) for base in near]
    return near + [base for base in as_float32 if base < 1]


def test_powers_are_rounded_to_nearest():
    """Down to 2**-24; below that, what rules want is the difference to 1."""
    draw = random.Random(2)
    checked = 0
    for base in bases(400):
        for n in (1, 2, 31, 32, 33, draw.randrange(1, 1000), draw.randrange(1, 10**7)):
            exact = exact_power(base, n)
            if exact > Decimal(2) ** -24:
                assert Power()(base, n) == float(exact)
                checked += 1
    assert checked > 3000


def test_powers_by_roots():
    """Of numbers of steps, learning rates and decay rates, to less than 1e-14."""
    draw = random.Random(3)
    for _ in range(2000):
        exponent = draw.choice([draw.random(), draw.uniform(0, 16), 2.0, 0.25, 1 / 3])
        base = draw.choice([float(draw.randrange(1, 2**53)), 10 ** draw.uniform(-12, 2)])
        exact = exact_power(base, exponent)
        error = DIGITS.subtract(Decimal(root_power(base, exponent)), exact)
        assert abs(DIGITS.divide(error, exact)) < Decimal("1e-14")
    assert root_power(16.0, 0.25) == 2.0
    assert root_power(0.0, 0.0) == root_power(3.0, 0.0) == 1.0
    assert root_power(0.0, 0.5) == root_power(0.0, 2.0) == root_power(0.999, 1e300) == 0.0


def test_ratios_of_half_lives():
    draw = random.Random(4)
    for _ in range(200):
        first, second = draw.random(), 1 - 10 ** -draw.uniform(0, 9)
        exact = DIGITS.divide(DIGITS.ln(Decimal(second)), DIGITS.ln(Decimal(first)))
        assert half_life_ratio(first, second) == float(exact)
    assert half_life_ratio(0.0, 0.9) == 0.0
    assert half_life_ratio(0.9, 0.9) == 1.0


@pytest.mark.parametrize("n", [1, 2, 63, 10**6, 2**31, 2**53 - 1, 2**62])
@pytest.mark.parametrize("base", [0.0, 5e-324, 1e-30, 0.5, 0.96, 1 - 2**-24, 1 - 2**-53, 1.0])
def test_extreme_powers(base, n):
    """What is cut off stays below 2n * 2**-128 for a base below 1, and the power stays in range."""
    power = Power()(base, n)
    error = abs(Decimal(power) - exact_power(base, n))
    assert 0 <= power <= 1
    assert error <= Decimal(math.ulp(power)) / 2 + 2 * n * Decimal(2) ** -128 + Decimal(2) ** -96


def test_a_power_does_not_depend_on_the_one_before():
    draw = random.Random(3)
    memo = Power()
    n = 1
    for _ in range(5000):
        base = draw.choice([0.9, 0.999, 1.0, 0.0])
        n = draw.choice([n, n + 1, n + 2, n + 40, max(1, n - 1), draw.randrange(1, 5000)])
        assert memo(base, n) == Power()(base, n)


@pytest.mark.parametrize("n", [40, 63, 64])
def test_a_power_that_was_interrupted(n):
    """Ctrl-C after any line: the next power is right."""

    def interrupt(frame, event, argument):
        nonlocal left
        left -= event == "line"
        if left == 0:
            raise KeyboardInterrupt
        return interrupt

    before, lines = sys.gettrace(), 0
    while True:
        lines += 1
        left, memo = lines, Power()
        memo(0.9, 39)
        sys.settrace(interrupt)
        try:
            memo(0.9, n)
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert memo(0.9, n) == Power()(0.9, n)
    assert lines > 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_has_these_powers(dtype):
    """On every backend: the update is lr/(1 - beta1**n) where the moments are 1."""
    draw = random.Random(4)
    n = 1
    for base in bases(60):
        beta = float(dtype(base))
        if beta == 1:
            continue
        for _ in range(20):
            n = draw.choice([n, n + 1, n + 31, draw.randrange(1, 2**20), draw.randrange(1, 2**50)])
            p, one, m, v = (
                np.zeros(1, dtype),
                np.ones(1, dtype),
                np.ones(1, dtype),
                np.ones(1, dtype),
            )
            fastadam.adam_step(p, one, m, v, step=n, lr=0.1, betas=(beta, 0.0), eps=0.0)
            assert p[0] == -dtype(0.1 / (1 - Power()(beta, n))) * m[0]


def test_real_powers_are_rounded_to_nearest():
    draw = random.Random(5)
    for _ in range(1000):
        base, exponent = 10 ** draw.uniform(-3, 1), draw.choice([1, 3, 100]) * draw.random()
        assert real_power(base, exponent) == float(exact_power(base, exponent))


def test_extreme_real_powers():
    assert real_power(0.0, 2.5) == 0
    assert real_power(0.0, 0.0) == real_power(7.0, 0.0) == real_power(1.0, 1e300) == 1
    assert real_power(2.0, 1e300) == real_power(1e300, 2) == math.inf
    assert real_power(0.5, 1e300) == real_power(1e-300, 2) == 0
    assert real_power(0.96, 1) == 0.96


def test_half_cosine():
    """Four units in the last place: the sine is off by one or two, and is squared."""
    assert [half_cosine(x) for x in (0.0, 0.5, 1.0)] == [0, 0.5, 1]
    draw = random.Random(6)
    for _ in range(1000):
        x = draw.random() ** draw.choice([1, 1, 5])
        exact = exact_half_cosine(x)
        assert abs(Decimal(half_cosine(x)) - exact) <= 4 * Decimal(math.ulp(float(exact))), x
