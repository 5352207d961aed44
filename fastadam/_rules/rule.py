"""What all rules share: the twin of csrc/scalars.c and of the loop in csrc/kernel.c."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastadam._hyper import Hyper

Block: TypeAlias = Any  # a vector of float32 or float64; typed ufuncs of Scalars give Any

SMALLEST_NORMAL = {
    np.dtype(dtype): np.finfo(dtype).smallest_normal for dtype in (np.float32, np.float64)
}


class Number(NamedTuple):
    """A running number, which a rule keeps for each array from step to step."""

    name: str  # in state dicts
    first: float  # before the first step
    most: float = math.inf  # the largest that it can become; none is negative


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
    numbers: tuple[
        Number, ...
    ] = ()  # what state has besides arrays and the step count, in C's order
    saves_step: bool = True  # whether torch.optim's state has the step count

    @property
    def number_names(self) -> tuple[str, ...]:
        """What state dicts call the running numbers."""
        return tuple(number.name for number in self.numbers)

    @property
    def first_numbers(self) -> tuple[float, ...]:
        """The running numbers before the first step."""
        return tuple(number.first for number in self.numbers)

    def kept(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The arrays of state that the rule keeps under a param group's options."""
        return tuple(
            name for name in self.states if name not in self.asked or options.get(self.asked[name])
        )


class Scalars:
    """The numbers of one step, computed in double and rounded once to the dtype."""

    step_size: Any
    grad_step: Any
    root: Any
    fresh: Any
    rectified: bool

    def __init__(
        self,
        rule: Rule,
        hyper: Hyper,
        lr: float,
        factor: float,
        step: int,
        numbers: tuple[float, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.real = real = dtype.type
        self.smallest_normal = SMALLEST_NORMAL[dtype]
        self.lr, self.step = lr, step
        self.numbers = numbers  # before the step; a rule makes them those after it
        self.grad_factor = real(-factor if hyper.maximize else factor)
        self.weight_decay = real(hyper.weight_decay)
        self.keep = real(1 - lr * hyper.weight_decay if hyper.decoupled_weight_decay else 1)
        self.coupled = not hyper.decoupled_weight_decay and hyper.weight_decay != 0
        self.ema_decay = real(hyper.ema_decay)
        self.ema_share = 1 - self.ema_decay
        self.b1, self.b2 = real(hyper.beta1), real(hyper.beta2)
        self.eps, self.momentum = real(hyper.eps), real(hyper.momentum)
        self.hyper = hyper
        rule.scalars(self, hyper)
        self.c1, self.c2 = 1 - self.b1, 1 - self.b2


def step_block(
    rule: Rule,
    k: Scalars,
    p: Block,
    grad: Block,
    s: tuple[Block | None, ...],
    average: Block | None,
    scratch: Block,
) -> None:
    """Step one block in place; the loop of csrc/kernel.c.

    Multiplying by one changes no bit, so it is left out.
    """
    a, b, c = scratch
    g = grad
    if k.grad_factor != 1:
        g = np.multiply(grad, k.grad_factor, out=c)
    if k.coupled:
        np.multiply(k.weight_decay, p, out=b)
        g = np.add(g, b, out=c)
    rule.step(k, p, g, s, a, b, c)
    if average is not None:
        decayed(k, average, k.ema_decay, k.ema_share, p, b)


def power(base: float, exponent: int) -> float:
    result: float = float(base) ** float(exponent)
    return result


def normal(k: Scalars, x: Block, scratch: Block, positive: bool = False) -> None:
    """Set what is smaller than the smallest normal number to zero.

    The minimum is a cheap test that most blocks pass; a NaN fails it.
    """
    if not (x if positive else np.abs(x, out=scratch)).min() >= k.smallest_normal:
        x[np.abs(x, out=scratch) < k.smallest_normal] = 0


def decayed(
    k: Scalars, x: Block, decay: Any, share: Any, new: Block, scratch: Block, positive: bool = False
) -> None:
    """x = normal(decay*x + share*new)"""
    np.multiply(decay, x, out=x)
    np.multiply(share, new, out=scratch)
    np.add(x, scratch, out=x)
    normal(k, x, scratch, positive)


def moved(k: Scalars, p: Block, update: Block) -> None:
    """p = p*keep - update"""
    if k.keep != 1:
        np.multiply(p, k.keep, out=p)
    np.subtract(p, update, out=p)


def root_of(k: Scalars, v: Block, out: Block) -> Block:
    """sqrt(v)*root + eps"""
    np.sqrt(v, out=out)
    if k.root != 1:
        np.multiply(out, k.root, out=out)
    return np.add(out, k.eps, out=out)
