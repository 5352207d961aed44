"""Dozat, "Incorporating Nesterov Momentum into Adam", 2016."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastadam._hyper import Hyper
from fastadam._rules.rule import (
    STORAGE,
    Number,
    Rule,
    Scalars,
    Vector,
    decayed,
    moved,
    power,
    root_of,
)


def scalars(k: Scalars, h: Hyper) -> None:
    b1 = float(k.b1)
    mu = b1 * (1 - 0.5 * power(k, 0, h.psi, k.step))
    next_mu = b1 * (1 - 0.5 * power(k, 0, h.psi, k.step + 1))
    mu_product = k.numbers[0] * mu
    k.grad_step = k.real(k.lr * (1 - mu) / (1 - mu_product))
    k.step_size = k.real(k.lr * next_mu / (1 - mu_product * next_mu))
    k.root = k.factor(1 / math.sqrt(1 - power(k, 1, k.b2, k.step)))
    k.numbers = (mu_product,)


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    m, v = s
    decayed(k, m, k.b1, k.c1, g, b)
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    denom = root_of(k, v, out=b)
    np.multiply(k.step_size, m, out=a)
    a += np.multiply(k.grad_step, g, out=c)
    a /= denom
    moved(k, p, a)


NADAM = Rule(
    "nadam",
    (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "momentum_decay",
        "decoupled_weight_decay",
        "maximize",
        *STORAGE,
    ),
    ("exp_avg", "exp_avg_sq"),
    scalars,
    step,
    numbers=(Number("mu_product", first=1.0, most=1.0),),
    positive=("exp_avg_sq",),
    units={"exp_avg": "exp_avg_sq"},
)
