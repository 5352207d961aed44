"""The rules in NumPy: the specification, and what runs without the extension.

Each is csrc/rules.h and csrc/scalars.c, line for line: the same names, the same operations
in the same order, each rounded once to the dtype.
"""

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


class Rule(NamedTuple):
    """One optimizer of the family, as both backends know it."""

    name: str  # in csrc/rules.h, too
    options: tuple[str, ...]  # what a param group has besides "params"
    states: tuple[str, ...]  # the arrays of state, in C's order
    #: `scalars(k, hyper)` adds what the rule needs to the scalars k of a step.
    scalars: Callable[[Scalars, Hyper], None]
    #: `update(k, g, s, a, b, c)` changes a block's state s and returns what is taken from the
    #: parameter, for the gradient g; a, b and c are scratch, and g may lie in c.
    update: Callable[..., Block]
    asked: Mapping[str, str] = {}  # the arrays of state that only an option asks for
    numbers: tuple[str, ...] = ()  # what state has besides arrays and the step count
    saves_step: bool = True  # whether torch.optim's state has the step count


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
        mu_product: float,
        dtype: np.dtype[Any],
    ) -> None:
        self.real = real = dtype.type
        self.smallest_normal = SMALLEST_NORMAL[dtype]
        self.lr, self.step = lr, step
        self.mu_product = self.next_mu_product = mu_product
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
    update = rule.update(k, g, s, a, b, c)
    if k.keep != 1:
        np.multiply(p, k.keep, out=p)
    np.subtract(p, update, out=p)
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


def root_of(k: Scalars, v: Block, out: Block) -> Block:
    """sqrt(v)*root + eps"""
    np.sqrt(v, out=out)
    if k.root != 1:
        np.multiply(out, k.root, out=out)
    return np.add(out, k.eps, out=out)


def adam_scalars(k: Scalars, h: Hyper) -> None:
    bc1, bc2 = 1 - power(k.b1, k.step), 1 - power(k.b2, k.step)
    k.step_size = k.real(k.lr * math.sqrt(bc2) / bc1 if h.epsilon_hat else k.lr / bc1)
    k.root = k.real(1 if h.epsilon_hat else 1 / math.sqrt(bc2))


def adam(k: Scalars, g: Block, s: Any, a: Block, b: Block, c: Block) -> Block:
    """Kingma & Ba, arXiv:1412.6980, algorithm 1; AMSGrad: Reddi, Kale & Kumar, arXiv:1904.09237."""
    m, v, vmax = s
    decayed(k, m, k.b1, k.c1, g, b)
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    if k.hyper.amsgrad:
        v = np.maximum(vmax, v, out=vmax)
    denom = root_of(k, v, out=b)
    return np.divide(np.multiply(k.step_size, m, out=a), denom, out=a)


def nadam_scalars(k: Scalars, h: Hyper) -> None:
    psi = 0.96**h.momentum_decay
    b1 = float(k.b1)
    mu = b1 * (1 - 0.5 * power(psi, k.step))
    next_mu = b1 * (1 - 0.5 * power(psi, k.step + 1))
    k.next_mu_product = k.mu_product * mu
    k.grad_step = k.real(k.lr * (1 - mu) / (1 - k.next_mu_product))
    k.step_size = k.real(k.lr * next_mu / (1 - k.next_mu_product * next_mu))
    k.root = k.real(1 / math.sqrt(1 - power(k.b2, k.step)))


def nadam(k: Scalars, g: Block, s: Any, a: Block, b: Block, c: Block) -> Block:
    """Dozat, "Incorporating Nesterov Momentum into Adam", 2016."""
    m, v = s
    decayed(k, m, k.b1, k.c1, g, b)
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    denom = root_of(k, v, out=b)
    np.multiply(k.step_size, m, out=a)
    np.add(a, np.multiply(k.grad_step, g, out=c), out=a)
    return np.divide(a, denom, out=a)


def radam_scalars(k: Scalars, h: Hyper) -> None:
    b2 = float(k.b2)
    bc1, bc2 = 1 - power(k.b1, k.step), 1 - power(k.b2, k.step)
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * float(k.step) * (1 - bc2) / bc2
    k.step_size, k.root = k.real(k.lr / bc1), 1
    k.rectified = rho > 5
    if k.rectified:
        r = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        k.step_size = k.real(k.lr * math.sqrt(r) * math.sqrt(bc2) / bc1)


def radam(k: Scalars, g: Block, s: Any, a: Block, b: Block, c: Block) -> Block:
    """Liu et al., arXiv:1908.03265, algorithm 2."""
    m, v = s
    decayed(k, m, k.b1, k.c1, g, b)
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    np.multiply(k.step_size, m, out=a)
    return np.divide(a, root_of(k, v, out=b), out=a) if k.rectified else a


def adamax_scalars(k: Scalars, h: Hyper) -> None:
    k.step_size = k.real(k.lr / (1 - power(k.b1, k.step)))


def adamax(k: Scalars, g: Block, s: Any, a: Block, b: Block, c: Block) -> Block:
    """Kingma & Ba, algorithm 2."""
    m, u = s
    decayed(k, m, k.b1, k.c1, g, b)
    np.multiply(k.b2, u, out=u)
    np.maximum(u, np.add(np.abs(g, out=a), k.eps, out=a), out=u)
    return np.divide(np.multiply(k.step_size, m, out=a), u, out=a)


def rmsprop_scalars(k: Scalars, h: Hyper) -> None:
    k.b2 = k.real(h.alpha)
    k.step_size, k.root = k.real(k.lr), 1


def rmsprop(k: Scalars, g: Block, s: Any, a: Block, b: Block, c: Block) -> Block:
    """Tieleman & Hinton, lecture 6.5, 2012; centered: Graves, arXiv:1308.0850, equations 38-45."""
    v, buffer, mean = s
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    if k.hyper.centered:
        decayed(k, mean, k.b2, k.c2, g, b)
        v = np.subtract(v, np.multiply(mean, mean, out=a), out=a)
        np.maximum(v, 0, out=v)
    denom = root_of(k, v, out=b)
    if k.hyper.momentum == 0:
        return np.divide(np.multiply(k.step_size, g, out=a), denom, out=a)
    np.divide(g, denom, out=a)
    np.add(np.multiply(k.momentum, buffer, out=buffer), a, out=buffer)
    normal(k, buffer, b)
    return np.multiply(k.step_size, buffer, out=a)


def sgd_scalars(k: Scalars, h: Hyper) -> None:
    k.step_size = k.real(k.lr)
    k.fresh = k.real(1 if k.step == 1 else 1 - h.dampening)


def sgd(k: Scalars, g: Block, s: Any, a: Block, b: Block, c: Block) -> Block:
    """Sutskever et al., "On the importance of initialization and momentum", 2013."""
    (buffer,) = s
    if k.hyper.momentum != 0:
        decayed(k, buffer, k.momentum, k.fresh, g, b)
        if k.hyper.nesterov:
            g = np.add(g, np.multiply(k.momentum, buffer, out=a), out=a)
        else:
            g = buffer
    return np.multiply(k.step_size, g, out=a)


ADAM = Rule(
    "adam",
    ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay",
     "epsilon_hat"),
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    adam_scalars,
    adam,
    asked={"max_exp_avg_sq": "amsgrad"},
)  # fmt: skip
NADAM = Rule(
    "nadam",
    ("lr", "betas", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay", "maximize"),
    ("exp_avg", "exp_avg_sq"),
    nadam_scalars,
    nadam,
    numbers=("mu_product",),
)
RADAM = Rule(
    "radam",
    ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize"),
    ("exp_avg", "exp_avg_sq"),
    radam_scalars,
    radam,
)
ADAMAX = Rule(
    "adamax",
    ("lr", "betas", "eps", "weight_decay", "maximize"),
    ("exp_avg", "exp_inf"),
    adamax_scalars,
    adamax,
)
RMSPROP = Rule(
    "rmsprop",
    ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
    ("square_avg", "momentum_buffer", "grad_avg"),
    rmsprop_scalars,
    rmsprop,
    asked={"momentum_buffer": "momentum", "grad_avg": "centered"},
)
SGD = Rule(
    "sgd",
    ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
    ("momentum_buffer",),
    sgd_scalars,
    sgd,
    asked={"momentum_buffer": "momentum"},
    saves_step=False,
)
