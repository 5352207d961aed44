"""Schedules: against torch's, against the formulas, as an optimizer's lr, and on bad arguments."""

import copy
import doctest
import importlib.util
import itertools
import math
import os
import pickle
import random
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import fastadam
from fastadam import schedules
from fastadam._elementary import real_power
from fastadam.schedules import (
    ReduceOnPlateau,
    constant,
    cosine_decay,
    exponential_decay,
    join,
    linear,
    one_cycle,
    piecewise_constant,
    polynomial,
    warmup_cosine,
)

NAN, INF = math.nan, math.inf
STEPS = 40

EVERY = {
    "constant": constant(0.1),
    "linear": linear(0.1, 0.3, 7),
    "polynomial": polynomial(0.3, 0.1, 7, power=2.5),
    "exponential_decay": exponential_decay(0.3, 0.5, 7, end=0.01),
    "staircase": exponential_decay(0.3, 0.5, 7, staircase=True),
    "piecewise_constant": piecewise_constant(0.3, {9: 0.1, 4: 2.0}),
    "cosine_decay": cosine_decay(0.3, 7, end=0.1),
    "warmup_cosine": warmup_cosine(0.1, 0.3, 4, 11, end=0.01),
    "one_cycle": one_cycle(0.3, 13),
    "join": join([linear(0.1, 0.3, 4), constant(0.2), cosine_decay(0.3, 7)], [4, 6]),
    "ReduceOnPlateau": ReduceOnPlateau(0.1),
}


def values(schedule, steps=STEPS):
    return [schedule(finished) for finished in range(steps)]


def close(found, expected):
    """Within some ten roundings of a value, or of 0.3, from which small ones are differences."""
    return np.allclose(found, expected, rtol=1e-14, atol=1e-15)


# torch

# Our schedule, torch's for an optimizer that starts with lr=0.1, and how many steps to compare.
# torch's mostly go from one learning rate to the next, whose roundings average out: the two
# differ by less than 1e-15 of a value. Past its end CosineAnnealingLR goes up again, as
# OneCycleLR does for a step.
TORCH = {
    "constant": (constant(0.1), lambda s, opt: s.ConstantLR(opt, 1.0), STEPS),
    "linear up": (linear(0.025, 0.1, 10), lambda s, opt: s.LinearLR(opt, 0.25, 1.0, 10), STEPS),
    "linear down": (linear(0.1, 0.02, 10), lambda s, opt: s.LinearLR(opt, 1.0, 0.2, 10), STEPS),
    "polynomial": (polynomial(0.1, 0.0, 30), lambda s, opt: s.PolynomialLR(opt, 30), STEPS),
    "polynomial, power": (
        polynomial(0.1, 0.0, 30, power=2.5),
        lambda s, opt: s.PolynomialLR(opt, 30, 2.5),
        STEPS,
    ),
    "exponential": (
        exponential_decay(0.1, 0.9, 1),
        lambda s, opt: s.ExponentialLR(opt, 0.9),
        STEPS,
    ),
    "exponential staircase": (
        exponential_decay(0.1, 0.5, 7, staircase=True),
        lambda s, opt: s.StepLR(opt, 7, 0.5),
        STEPS,
    ),
    "piecewise": (
        piecewise_constant(0.1, {4: 0.3, 9: 0.3, 20: 0.3}),
        lambda s, opt: s.MultiStepLR(opt, [4, 9, 20], 0.3),
        STEPS,
    ),
    "cosine": (
        cosine_decay(0.1, 30, end=0.01),
        lambda s, opt: s.CosineAnnealingLR(opt, 30, 0.01),
        31,
    ),
    "warm-up, cosine": (
        warmup_cosine(0.02, 0.1, 5, 30, end=0.01),
        lambda s, opt: s.SequentialLR(
            opt, [s.LinearLR(opt, 0.2, 1.0, 5), s.CosineAnnealingLR(opt, 25, 0.01)], [5]
        ),
        31,
    ),
    "join": (
        join([constant(0.05), exponential_decay(0.1, 0.9, 1), linear(0.1, 0.0, 9)], [5, 12]),
        lambda s, opt: s.SequentialLR(
            opt,
            [s.ConstantLR(opt, 0.5, 99), s.ExponentialLR(opt, 0.9), s.LinearLR(opt, 1.0, 0.0, 9)],
            [5, 12],
        ),
        STEPS,
    ),
}


def torch_values(make, steps):
    torch = pytest.importorskip("torch")
    opt = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = make(torch.optim.lr_scheduler, opt)
    found = []
    for _ in range(steps):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("case", TORCH)
def test_values_are_torchs(case):
    schedule, make, steps = TORCH[case]
    assert close(values(schedule, steps), torch_values(make, steps))


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
@pytest.mark.parametrize("pct_start", [0.0, 0.3, 0.55, 0.9])
def test_one_cycle_is_torchs(pct_start, anneal_strategy, steps):
    options = {"pct_start": pct_start, "anneal_strategy": anneal_strategy}
    for factors in ({}, {"div_factor": 4.0, "final_div_factor": 0.5}):
        expected = torch_values(
            lambda s, opt, factors=factors: s.OneCycleLR(
                opt, 0.1, steps, cycle_momentum=False, **options, **factors
            ),
            steps,
        )
        assert close(values(one_cycle(0.1, steps, **options, **factors), steps), expected)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_reduce_on_plateau_is_torchs(mode, threshold_mode):
    """To the bit: it is the same few operations."""
    torch = pytest.importorskip("torch")
    rng = random.Random(1)
    reduced = 0
    for patience, cooldown, min_lr, eps, threshold in itertools.product(
        [0, 2], [0, 3], [0.0, 1e-3], [1e-8, 0.01], [0.0, 0.05]
    ):
        options = {
            "mode": mode,
            "factor": 0.3,
            "patience": patience,
            "threshold": threshold,
            "threshold_mode": threshold_mode,
            "cooldown": cooldown,
            "min_lr": min_lr,
            "eps": eps,
        }
        ours = ReduceOnPlateau(0.1, **options)
        opt = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, **options)
        for step in range(60):
            usual = 1 + rng.gauss(1, 1) / (step + 1)
            metric = rng.choice([usual] * 12 + [-usual, NAN, INF, -INF if step > 50 else usual])
            ours.update(metric)
            theirs.step(metric)
            assert ours.lr == ours(step) == opt.param_groups[0]["lr"]
            assert ours.best == theirs.best
            assert ours.bad_updates == theirs.num_bad_epochs
            assert ours.cooldown_left == theirs.cooldown_counter
        reduced += ours.lr < 0.1
    assert reduced > 20


def test_reduce_on_plateau_has_torchs_defaults():
    torch = pytest.importorskip("torch")
    opt = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = vars(torch.optim.lr_scheduler.ReduceLROnPlateau(opt))
    ours = vars(ReduceOnPlateau(0.1))
    for name in ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "eps"):
        assert ours[name] == theirs[name], name
    assert ours["min_lr"] == theirs["min_lrs"][0]
    plateau = ReduceOnPlateau(0.1, patience=0)
    for metric in (torch.tensor(1.0), np.float32(2), np.array(2.0), 2):
        plateau.update(metric)
    assert plateau.best == 1.0
    assert plateau.lr < 1e-3


# formulas


@pytest.mark.parametrize(("start", "end"), [(0.3, 0.0), (0.1, 0.3), (0.0, 0.3), (0.2, 0.2)])
def test_formulas(start, end):
    steps = 9
    for power in (1, 2, 5):
        expected = [
            float(
                Fraction(end)
                + (Fraction(start) - Fraction(end)) * Fraction(max(steps - n, 0), steps) ** power
            )
            for n in range(STEPS)
        ]
        assert close(values(polynomial(start, end, steps, power)), expected)
        if power == 1:
            assert close(values(linear(start, end, steps)), expected)
    expected = [  # the half-angle form
        end + (start - end) * math.cos(math.pi * min(n, steps) / steps / 2) ** 2
        for n in range(STEPS)
    ]
    assert close(values(cosine_decay(start, steps, end=end)), expected)


@pytest.mark.parametrize("rate", [0.25, 1.0, 3.0])
def test_exponential_decay(rate):
    expected = [0.1 * math.exp(n / 7 * math.log(rate)) for n in range(STEPS)]
    assert close(values(exponential_decay(0.1, rate, 7)), expected)
    end = 0.02 if rate < 1 else 0.7
    bounded = [max(v, end) if rate < 1 else min(v, end) for v in expected]
    assert close(values(exponential_decay(0.1, rate, 7, end=end)), bounded)
    stairs = [expected[n - n % 7] for n in range(STEPS)]
    assert close(values(exponential_decay(0.1, rate, 7, staircase=True)), stairs)


def test_exponential_decay_far_away():
    assert exponential_decay(0.1, 0.5, 1)(10**6) == 0.0
    assert exponential_decay(0.1, 0.5, 1, end=0.01)(10**6) == 0.01
    assert exponential_decay(0.1, 2.0, 1, end=0.7)(10**6) == 0.7
    growing = fastadam.SGD(np.zeros(1), lr=lambda _: exponential_decay(0.1, 2.0, 1)(10**6))
    with pytest.raises(ValueError, match="Invalid learning rate: inf"):
        growing.step(np.ones(1))


def test_piecewise_constant():
    assert values(piecewise_constant(0.5, {}), 3) == [0.5] * 3
    schedule = piecewise_constant(1.0, {5: 0.25, np.int64(2): 0.5, 6: 0})  # in any order
    assert values(schedule, 9) == [1, 1, 0.5, 0.5, 0.5, 0.125, 0, 0, 0]


def test_join_counts_from_each_boundary():
    seen = []

    def third(finished):
        seen.append(finished)
        return 9.0

    schedule = join((linear(0, 1, 4), linear(2, 4, 4), third), np.array([2, 5]))
    assert values(schedule, 8) == [0, 0.25, 2, 2.5, 3, 9, 9, 9]
    assert seen == [0, 1, 2]
    assert values(join([schedule], []), 8) == values(schedule, 8)
    nested = join([constant(7), schedule], [3])
    assert values(nested, 11) == [7, 7, 7, *values(schedule, 8)]


@pytest.mark.parametrize("make", [linear, polynomial, lambda a, b, n: cosine_decay(a, n, end=b)])
def test_both_ends_are_exact_and_the_last_value_stays(make):
    for start, end, steps in itertools.product((0.0, 0.1, 0.3, 1e-8), (0.0, 0.1, 1e-9), (1, 3, 10)):
        schedule = make(start, end, steps)
        assert schedule(0) == start
        assert schedule(steps) == schedule(steps + 1) == schedule(10**12) == end
        slack = 1 + 1e-15  # two roundings
        low, high = min(start, end) / slack, max(start, end) * slack
        assert all(low <= value <= high for value in values(schedule))


def test_warmup_cosine_and_one_cycle_at_their_corners():
    schedule = warmup_cosine(0.1, 0.3, 4, 11, end=0.01)
    assert [schedule(n) for n in (0, 4, 11, 12, 10**12)] == [0.1, 0.3, 0.01, 0.01, 0.01]
    assert values(warmup_cosine(0.1, 0.3, 1, 2), 4) == [0.1, 0.3, 0.0, 0.0]

    schedule = one_cycle(0.5, 20, pct_start=0.25, div_factor=5, final_div_factor=10)
    assert [schedule(n) for n in (0, 4, 19, 20, 10**12)] == [0.1, 0.5, 0.01, 0.01, 0.01]
    assert one_cycle(0.5, 10, pct_start=0.1)(0) == 0.5  # where torch divides by zero


# objects


@pytest.mark.parametrize("name", EVERY)
def test_values_are_plain_and_survive_pickle_copy_and_repr(name):
    schedule = EVERY[name]
    expected = values(schedule)
    assert {type(value) for value in expected} == {float}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert values(pickle.loads(pickle.dumps(schedule, protocol))) == expected
    assert values(copy.deepcopy(schedule)) == expected
    assert values(copy.copy(schedule)) == expected
    assert repr(pickle.loads(pickle.dumps(schedule))) == repr(schedule)
    if name != "ReduceOnPlateau":  # whose repr has its state, too
        assert values(eval(repr(schedule), vars(schedules))) == expected


def test_repr():
    assert repr(linear(1, 0, 3)) == "polynomial(start=1.0, end=0.0, steps=3, power=1.0)"
    assert repr(join([constant(1), constant(np.float32(2))], [3])) == (
        "join(schedules=(constant(value=1.0), constant(value=2.0)), boundaries=(3,))"
    )
    assert "lr=0.1, mode='min'" in repr(ReduceOnPlateau(0.1))


def test_copies_of_a_plateau_are_independent():
    plateau = ReduceOnPlateau(0.1, factor=0.5, patience=0)
    plateau.update(1.0)
    both = join([constant(1.0), plateau], [1])
    others = copy.deepcopy(plateau), pickle.loads(pickle.dumps(plateau)), copy.deepcopy(both)
    plateau.update(2.0)
    assert plateau(0) == both(1) == 0.05
    assert others[0](0) == others[1](0) == others[2](1) == 0.1
    others[0].update(2.0)
    assert vars(others[0]) == vars(plateau)
    plateau.lr = 0.4
    plateau.update(2.0)
    assert plateau(0) == 0.2


@pytest.mark.parametrize("name", EVERY)
def test_as_an_optimizers_lr(name):
    schedule = EVERY[name]
    p = np.zeros(1)
    opt = fastadam.SGD(p, lr=schedule)
    for finished in range(15):
        p[...] = 0
        opt.step(np.ones(1))
        assert p[0] == -schedule(finished)
        opt = pickle.loads(pickle.dumps(opt)) if finished == 7 else opt
        p = opt.param_groups[0]["params"][0]

    ours, theirs = np.ones(3), np.ones(3)
    scheduled, set_by_hand = fastadam.Adam(ours, lr=schedule), fastadam.Adam(theirs)
    for finished in range(15):
        set_by_hand.lr = schedule(finished)
        scheduled.step(np.arange(3.0))
        set_by_hand.step(np.arange(3.0))
        assert ours.tobytes() == theirs.tobytes()


def test_a_plateau_changes_the_lr_of_the_next_step():
    p = np.zeros(1)
    opt = fastadam.SGD(p, lr=ReduceOnPlateau(0.5, factor=0.5, patience=0))
    for metric in (1.0, 1.0, 1.0):
        opt.step(np.ones(1))
        opt.lr.update(metric)
    assert p[0] == -(0.5 + 0.5 + 0.25)


def test_docstrings():
    result = doctest.testmod(schedules)
    assert result.attempted > 30
    assert result.failed == 0
    for name in schedules.__all__:
        assert ">>>" in getattr(schedules, name).__doc__, name


# errors

GOOD = {
    constant: {"value": 0.1},
    linear: {"start": 0.1, "end": 0.2, "steps": 3},
    polynomial: {"start": 0.1, "end": 0.2, "steps": 3, "power": 2.0},
    exponential_decay: {"start": 0.1, "rate": 0.5, "steps": 3, "end": 0.01, "staircase": True},
    piecewise_constant: {"start": 0.1, "scales": {3: 0.1}},
    cosine_decay: {"start": 0.1, "steps": 3, "end": 0.01},
    warmup_cosine: {"start": 0.1, "peak": 0.2, "warmup_steps": 3, "steps": 5, "end": 0.01},
    one_cycle: {
        "peak": 0.1,
        "steps": 3,
        "pct_start": 0.5,
        "anneal_strategy": "cos",
        "div_factor": 2.0,
        "final_div_factor": 2.0,
    },
    join: {"schedules": [constant(0.1)] * 3, "boundaries": [3, 5]},
    ReduceOnPlateau: {
        "lr": 0.1,
        "mode": "max",
        "factor": 0.5,
        "patience": 3,
        "threshold": 0.1,
        "threshold_mode": "abs",
        "cooldown": 3,
        "min_lr": 0.01,
        "eps": 1e-3,
    },
}
RATES = ("value", "start", "end", "peak", "lr", "min_lr", "eps", "threshold")
POSITIVE = ("rate", "power", "div_factor", "final_div_factor")
BELOW_ONE = ("pct_start", "factor")
COUNTS = {"steps": 1, "warmup_steps": 1, "patience": 0, "cooldown": 0}
CHOICES = ("mode", "threshold_mode", "anneal_strategy")


def bad(name):
    """Bad values of an argument, with the error and what it says."""
    if name in RATES + POSITIVE + BELOW_ONE:
        least = "above" if name in POSITIVE else "at least"
        most = "below 1.0" if name in BELOW_ONE else "finite"
        for value in (-1.0, NAN, INF, -INF, *([0] if name in POSITIVE else [])):
            found = f"{name} must be {least} 0 and {most}, found {float(value)}"
            yield value, ValueError, found
        yield "0.1", TypeError, f"{name} must be a real number, found str"
    elif name in COUNTS:
        least = COUNTS[name]
        if name != "steps":  # after a warm-up it must be more
            yield least - 1, ValueError, f"{name} must be at least {least}, found {least - 1}"
        yield -5, ValueError, f"{name} must be at least \\d, found -5"
        yield 2.0, TypeError, f"{name} must be an integer, found float; write int\\(2.0\\)"
        yield 2.5, TypeError, f"{name} must be an integer, found float"
    elif name in CHOICES:
        yield "other", ValueError, f"{name} must be '\\w+' or '\\w+', found 'other'"


CASES = [
    (make, name, *case)
    for make, arguments in GOOD.items()
    for name in arguments
    for case in bad(name)
]


@pytest.mark.parametrize(("make", "name", "value", "error", "message"), CASES)
def test_bad_arguments(make, name, value, error, message):
    make(**GOOD[make])
    with pytest.raises(error, match=f"^{message}$"):
        make(**{**GOOD[make], name: value})


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "steps must be at least 1, found 0", lambda: linear(0.1, 0.2, 0)),
        (ValueError, "steps must be at least 6, found 5", lambda: warmup_cosine(0, 1, 5, 5)),
        (
            TypeError,
            "staircase must be True or False",
            lambda: exponential_decay(1, 1, 1, staircase=2),
        ),
        (TypeError, "scales must be a dict .*, found list", lambda: piecewise_constant(1, [3, 5])),
        (ValueError, "a key of scales must be at least 1", lambda: piecewise_constant(1, {0: 0.1})),
        (TypeError, "a key of scales .* found str", lambda: piecewise_constant(1, {"3": 0.1})),
        (ValueError, r"scales\[3\] .* found -0.1", lambda: piecewise_constant(1, {3: -0.1})),
        (TypeError, r"scales\[3\] .* found NoneType", lambda: piecewise_constant(1, {3: None})),
        (TypeError, "schedules must be a list, found _Schedule", lambda: join(constant(1), [])),
        (TypeError, r"schedules\[1\] must be a function", lambda: join([constant(1), 0.1], [3])),
        (TypeError, "boundaries must be a list, found int", lambda: join([constant(1)] * 2, 3)),
        (ValueError, "found 0 schedules and 0 boundaries", lambda: join([], [])),
        (ValueError, "found 2 schedules and 2 boundaries", lambda: join([constant(1)] * 2, [3, 5])),
        (ValueError, r"boundaries\[0\] must be at least 1", lambda: join([constant(1)] * 2, [0])),
        (
            ValueError,
            r"boundaries\[1\] must be at least 4, found 3",
            lambda: join([constant(1)] * 3, [3, 3]),
        ),
        (TypeError, r"boundaries\[0\] .* found float", lambda: join([constant(1)] * 2, [3.0])),
        (TypeError, "NoneType", lambda: ReduceOnPlateau(0.1).update(None)),
    ],
)
def test_more_bad_arguments(error, message, make):
    with pytest.raises(error, match=message):
        make()


def test_numpys_numbers_are_taken():
    schedule = linear(np.float32(0.5), np.array(0.25), np.int64(2))
    assert values(schedule, 3) == [0.5, 0.375, 0.25]
    assert {type(value) for value in values(schedule, 3)} == {float}


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
@pytest.mark.parametrize(
    "schedule",
    [
        exponential_decay(0.5, 0.3, 3),
        exponential_decay(0.5, 0.6, 3, staircase=True),
        polynomial(0.5, 0.1, 8, power=1.5),
    ],
)
def test_numpys_counts_are_taken(schedule, dtype):
    real_power.cache_clear()  # which takes equal numbers for the same
    by_numpy = [schedule(finished) for finished in np.arange(9, dtype=dtype)]
    assert {type(value) for value in by_numpy} == {float}
    assert by_numpy == pytest.approx(values(schedule, 9), rel=1e-6)  # float32 quotients


ARRAYS_WITHOUT_AXES = """
import numpy as np
import fastadam

for rate in rates:
    for lr in (rate, lambda finished: rate):
        w = np.zeros(2)
        opt = fastadam.SGD(w, lr=lr)
        for _ in range(2):
            opt.step(np.ones(2))
        assert w.tolist() == [-0.5, -0.5], rate
        opt.param_groups[0]["weight_decay"] = rate * 0
        opt.step(np.ones(2))
        assert w.tolist() == [-0.75, -0.75], rate
"""


@pytest.mark.parametrize(
    ("package", "rates"),
    [
        ("numpy", "np.array(0.25, np.float32), np.float16(0.25)"),
        (
            "torch",
            "torch.tensor(0.25, requires_grad=True), torch.tensor(0.25, dtype=torch.bfloat16)",
        ),
        ("jax", "jax.numpy.asarray(0.25), jax.numpy.asarray(0.25, jax.numpy.bfloat16)"),
    ],
)
def test_arrays_without_axes_are_numbers(package, rates, backend):
    """As optax's schedules give them. In a child, since JAX starts threads."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    chosen = {"FASTADAM_BACKEND": "numpy"} if backend == "numpy" else {"FASTADAM_ISA": backend}
    code = f"import {package}, numpy as np\nrates = [{rates}]\n{ARRAYS_WITHOUT_AXES}"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **chosen}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]


def test_other_arrays_are_none():
    for bad in (np.array(True), np.array(1j), np.array("1"), np.ones(1)):
        opt = fastadam.SGD(np.zeros(2), lr=lambda finished, bad=bad: bad)
        with pytest.raises(TypeError, match=r"lr must be a real number, found .*function lr\(0\)"):
            opt.step(np.ones(2))
