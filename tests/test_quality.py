"""How near the updates are to those of float32 where moments are stored in fewer bits."""

import itertools

import formats
import numpy as np
import pytest
from members import FIRST

import fastadam
from fastadam import _backend

STATE_DTYPES = ["bfloat16", "int8"]
BLOCK = 64


@pytest.fixture(scope="module", autouse=True)
def backend():
    """One is enough: all give the same bytes."""
    with _backend.using(_backend.available[0]):
        yield


def updates(gradients, state_dtype, member="Adam", **options):
    """What each step changed in an array of zeros, as lr = 1 would."""
    gradients = iter(gradients)
    first = next(gradients)
    p = np.zeros_like(first)
    opt = getattr(fastadam, member)(p, lr=1.0, state_dtype=state_dtype, **options)
    for g in itertools.chain([first], gradients):
        p[...] = 0
        opt.step(g)
        yield p.copy()


def compared(make_gradients, state_dtype, **options):
    """The updates, and those with float32 state."""
    found = updates(make_gradients(), state_dtype, **options)
    expected = updates(make_gradients(), None, **options)
    return np.array([*found]), np.array([*expected])


def worst_and_mean(found, expected, steps=slice(None)):
    """The largest ratio of an update to float32's, or to the mean one if that is larger; and the
    mean difference, as a share of the mean update. That mean is of some steps."""
    mean = np.abs(expected[steps]).mean()
    worst = (np.abs(found) / np.maximum(np.abs(expected), mean)).max()
    return worst, np.abs(found - expected)[steps].mean() / mean


MOST = {"bfloat16": 0.02, "int8": 0.15}
BETAS = [(0.9, 0.999), (0.9, 0.95), (0.95, 0.98), (0.0, 0.999), (0.99, 0.9), (0.9, 0.9999)]


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_blocks_whose_gradient_scales_span_four_decades(state_dtype, betas):
    scales = 10.0 ** np.random.default_rng(1).uniform(-2, 2, 400 * BLOCK)

    def gradients():
        rng = np.random.default_rng(2)
        for _ in range(200):
            yield (rng.standard_normal(scales.size) * scales).astype(np.float32)

    worst, mean = worst_and_mean(*compared(gradients, state_dtype, betas=betas))
    assert worst < 4
    assert mean < MOST[state_dtype]


@pytest.mark.parametrize("member", sorted(set(FIRST) - {"Adam"}))
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_other_members_with_such_scales(state_dtype, member):
    scales = 10.0 ** np.random.default_rng(1).uniform(-2, 2, 400 * BLOCK)

    def gradients():
        rng = np.random.default_rng(2)
        for _ in range(100):
            yield (rng.standard_normal(scales.size) * scales).astype(np.float32)

    found, expected = compared(gradients, state_dtype, member=member, **FIRST[member])
    if member == "RAdam":  # whose first steps are those of SGD
        found, expected = found[10:], expected[10:]
    worst, mean = worst_and_mean(found, expected)
    assert worst < 4
    assert mean < MOST[state_dtype] * (2 if member == "Lion" else 1)  # a wrong sign is 2 off


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_after_the_gradient_became_smaller(state_dtype):
    """1,400 steps after it fell by a factor of 30, moments and updates have followed."""

    def gradients():
        rng = np.random.default_rng(3)
        for step in range(2000):
            g = rng.standard_normal(100 * BLOCK).astype(np.float32)
            yield g if step < 600 else g / np.float32(30)

    found, expected = compared(gradients, state_dtype)
    for last in (599, 800, 1200, 1999):
        sizes = [np.abs(x[last - 9 : last + 1]).mean() for x in (found, expected)]
        ratio = sizes[0] / sizes[1]
        assert 0.9 < ratio < 1.1


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_a_second_moment_falls_as_in_float32(state_dtype):
    """Rounded to nearest it would stay where it is: a step changes it by a thousandth."""
    p = np.zeros(100 * BLOCK, np.float32)
    opt = fastadam.RMSprop(p, alpha=0.999, state_dtype=state_dtype)
    opt.step(np.ones_like(p))
    first = formats.decoded("RMSprop", formats.codes_of(opt), p.size)["square_avg"].mean()
    for _ in range(2000):
        opt.step(np.zeros_like(p))
    last = formats.decoded("RMSprop", formats.codes_of(opt), p.size)["square_avg"].mean()
    assert 0.9 < last / first / 0.999**2000 < 1.1


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_gradients_that_are_mostly_zero_and_single_spikes(state_dtype):
    """Nothing is lost for good, and no update is ever far larger than float32's.

    Blocks without a spike go on as in float32 at all times. In 8 bits, the second moments beside a
    spike are raised to 2**-31 of its own for a while, so updates there are smaller; once it has
    decayed, they are what they are in float32, and so is that of the element itself.
    """
    n, spike_at = 100 * BLOCK, 300
    spikes = np.arange(n) % (3 * BLOCK) == 5
    beside = formats.in_blocks(spikes).any(axis=1).repeat(BLOCK) & ~spikes
    apart = ~beside & ~spikes

    def gradients():
        rng = np.random.default_rng(4)
        for step in range(4400):
            g = rng.standard_normal(n).astype(np.float32) * (rng.random(n) < 0.01)
            if step == spike_at:
                g[spikes] = 1e6
            yield g.astype(np.float32)

    found, expected = compared(gradients, state_dtype, betas=(0.9, 0.99))
    worst, mean = worst_and_mean(found[:, apart], expected[:, apart])
    assert worst < 4
    assert mean < MOST[state_dtype]
    worst, _ = worst_and_mean(found, expected)
    assert worst < 4

    def ratio(kind, last):
        sizes = [np.abs(x[last - 200 : last, kind]).mean() for x in (found, expected)]
        return sizes[0] / sizes[1]

    assert ratio(beside, spike_at + 200) < 1.1
    assert 0.9 < ratio(beside, spike_at + 1400) < 1.1
    assert 0.9 < ratio(spikes, 4400) < 1.1


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_pauses(state_dtype):
    """380 steps without a gradient, five times; compared with the updates of the 20 with one."""
    has_gradient = np.arange(2000) % 400 < 20

    def gradients():
        rng = np.random.default_rng(5)
        for step in range(2000):
            yield rng.standard_normal(100 * BLOCK).astype(np.float32) * has_gradient[step]

    found, expected = compared(gradients, state_dtype)
    worst, mean = worst_and_mean(found, expected, has_gradient)
    assert worst < 4
    assert mean < MOST[state_dtype]
