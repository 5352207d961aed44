"""What all rules share: the twin of csrc/scalars.c and of the loop in csrc/kernel.c."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastadam._codecs import numbers_of
from fastadam._elementary import Power
from fastadam._hyper import Hyper

Vector: TypeAlias = Any  # of float32 or float64; typed ufuncs of Scalars give Any

SMALLEST_NORMAL = {
    np.dtype(dtype): float(np.finfo(dtype).smallest_normal) for dtype in (np.float32, np.float64)
}


#: Options that all rules have: how state is stored.
STORAGE = ("state_dtype", "seed")


class Number(NamedTuple):
    """A running number, which a rule keeps for each array from step to step."""

    name: str  # in state dicts
    first: float  # before the first step
    most: float = math.inf  # the largest that it can become; none is negative


class Others(NamedTuple):
    """How other packages' state dicts differ from ours for the same rule; see _others.py."""

    #: (their name, ours) of an array of state, or of an option.
    names: Sequence[tuple[str, str]] = ()
    #: What their param groups count, where ours is counted for each array: {their name: ours}.
    counts: Mapping[str, str] = {}
    #: What only their param groups have, as it must be there.
    options: Mapping[str, Any] = {}
    #: Those of these options with which, as they must be, weight decay is ours.
    of_decay: Sequence[str] = ()


class Rule(NamedTuple):
    """One optimizer of the family, as both backends know it."""

    name: str  # in csrc/rules.h, too
    options: tuple[str, ...]  # what a param group has besides "params"
    states: tuple[str, ...]  # the arrays of state, in C's order
    #: `scalars(k, hyper)` adds what the rule needs to the scalars k of a step.
    scalars: Callable[[Scalars, Hyper], None]
    #: `step(k, p, g, s, a, b, c)` changes a block's parameter p and state s for the gradient g;
    #: a, b and c are scratch, and g may lie in c.
    step: Callable[..., None]
    asked: Mapping[str, str] = {}  # the arrays of state that only an option asks for
    #: What state has besides arrays and the step count, in C's order.
    numbers: tuple[Number, ...] = ()
    saves_step: bool = True  # whether torch.optim's state has the step count
    positive: tuple[str, ...] = ()  # the arrays of state that are never negative
    #: What an array of state is divided by in a step: another one, or with `roots` its root. In 8
    #: bits, errors are small beside that.
    units: Mapping[str, str] = {}
    roots: bool = True
    exact: tuple[str, ...] = ()  # the arrays of state that are no moments: stored as they are
    needs_all_rows: str = ""  # why no row can be left out of a step; mostly it can
    others: Others = Others()  # besides torch.optim, whose state dicts ours are like

    @property
    def number_names(self) -> tuple[str, ...]:
        """What state dicts call the running numbers."""
        return tuple(number.name for number in self.numbers)

    @property
    def first_numbers(self) -> tuple[float, ...]:
        """The running numbers before the first step."""
        return tuple(number.first for number in self.numbers)

    def stored_as(
        self, moments: np.dtype[Any], numbers: np.dtype[Any]
    ) -> tuple[np.dtype[Any], ...]:
        """The dtype of each array of state, where that of moments and of numbers is known."""
        return tuple(numbers if name in self.exact else moments for name in self.states)

    def kept(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The arrays of state that the rule keeps under a param group's options."""
        return tuple(
            name for name in self.states if name not in self.asked or options.get(self.asked[name])
        )


class Scalars:
    """The numbers of a step, computed in double and rounded once to the dtype.

    They are arrays without axes, which NumPy takes in less time than numbers.
    """

    step_size: Any
    grad_step: Any
    slow_step: Any
    z_share: Any
    b3: Any
    c3: Any
    root: Any
    fresh: Any
    limit: Any
    rectified: bool

    def __init__(self, rule: Rule, hyper: Hyper, dtype: np.dtype[Any]) -> None:
        self.rule, self.hyper = rule, hyper
        self.dtype = dtype
        self.smallest_normal = SMALLEST_NORMAL[dtype]
        self.per_smallest_normal = self.real(1 / self.smallest_normal)
        self.weight_decay = self.real(hyper.weight_decay)
        self.coupled = not hyper.decoupled_weight_decay and hyper.weight_decay != 0
        self.ema_decay, self.ema_share = self.shares(hyper.ema_decay)
        self.b1, self.c1 = self.shares(hyper.beta1)
        self.b2, self.c2 = self.shares(hyper.beta2)
        self.eps, self.momentum = self.real(hyper.eps), self.real(hyper.momentum)
        self.powers = (Power(), Power())
        self._made_for: tuple[Any, ...] | None = None

    def make_for(self, lr: float, factor: float, step: int, numbers: tuple[float, ...]) -> None:
        """Make those of a step, unless they are there: neighbours in a list mostly agree."""
        made_for = lr, factor, step, numbers
        if made_for == self._made_for:
            return
        self._made_for = None  # if Ctrl-C comes, they are those of no step
        h = self.hyper
        self.lr, self.step = lr, step
        self.numbers = numbers  # before the step; a rule makes them those after it
        self.grad_factor = self.factor(-factor if h.maximize else factor)
        self.keep = self.factor(1 - lr * h.weight_decay if h.decoupled_weight_decay else 1)
        self.rule.scalars(self, h)
        self._made_for = made_for

    def real(self, value: float) -> Any:
        """A number, rounded."""
        return np.array(value, self.dtype)

    def shares(self, decay: float) -> tuple[Any, Any]:
        """A decay rate b, and c = 1 - b of the b that was rounded."""
        b = self.real(decay)
        return b, self.real(1 - b)

    def factor(self, value: float) -> Any:
        """None for one: multiplying by it changes no bit, so it is left out."""
        return None if value == 1 else self.real(value)


class Block(NamedTuple):
    """As much of an array as is stepped at a time."""

    place: slice  # in the array, and in its gradient
    param: Vector
    state: Sequence[Vector | None]
    average: Vector | None
    scratch: tuple[Vector, Vector, Vector]


def step_blocks(k: Scalars, grad: Vector, blocks: Iterable[Block]) -> None:
    """Step an array in place, block by block; the loop of csrc/kernel.c."""
    for place, p, s, average, (a, b, c) in blocks:
        g = numbers_of(grad[place])
        if k.grad_factor is not None:
            g = np.multiply(g, k.grad_factor, out=c)
        if k.coupled:
            np.multiply(k.weight_decay, p, out=b)
            g = np.add(g, b, out=c)
        k.rule.step(k, p, g, s, a, b, c)
        if average is not None:
            decayed(k, average, k.ema_decay, k.ema_share, p, b)


def power(k: Scalars, i: int, base: Any, n: int) -> float:
    """base**n. A rule raises each of its bases in a place i of its own."""
    return k.powers[i](float(base), n)


def normal(k: Scalars, x: Vector, scratch: Vector, positive: bool = False) -> None:
    """Set what is smaller than the smallest normal number to zero.

    The least is a cheap test that most blocks pass; a NaN, which argmin finds, fails it. For
    short arrays argmin takes a fifth of the time of min.
    """
    magnitude = x if positive else np.abs(x, out=scratch)
    if not magnitude.item(magnitude.argmin()) >= k.smallest_normal:
        x[np.abs(x, out=scratch) < k.smallest_normal] = 0


def decayed(
    k: Scalars,
    x: Vector,
    decay: Any,
    share: Any,
    new: Vector,
    scratch: Vector,
    positive: bool = False,
) -> None:
    """x = normal(decay*x + share*new)"""
    x *= decay
    np.multiply(share, new, out=scratch)
    x += scratch
    normal(k, x, scratch, positive)


def moved(k: Scalars, p: Vector, update: Vector) -> None:
    """p = p*keep - update"""
    if k.keep is not None:
        p *= k.keep
    p -= update


def root_of(k: Scalars, v: Vector, out: Vector) -> Vector:
    """sqrt(v)*root + eps"""
    np.sqrt(v, out=out)
    if k.root is not None:
        out *= k.root
    out += k.eps
    return out
