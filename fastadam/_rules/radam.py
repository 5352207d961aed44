"""Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond",
arXiv:1908.03265, algorithm 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastadam._hyper import Hyper
from fastadam._rules.rule import STORAGE, Rule, Scalars, Vector, decayed, moved, power, root_of


def scalars(k: Scalars, h: Hyper) -> None:
    b2 = float(k.b2)
    bc1, bc2 = 1 - power(k, 0, k.b1, k.step), 1 - power(k, 1, k.b2, k.step)
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * float(k.step) * (1 - bc2) / bc2
    k.step_size, k.root = k.real(k.lr / bc1), k.factor(1)
    k.rectified = rho > 5
    if k.rectified:
        r = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        k.step_size = k.real(k.lr * math.sqrt(r) * math.sqrt(bc2) / bc1)


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    m, v = s
    decayed(k, m, k.b1, k.c1, g, b)
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    np.multiply(k.step_size, m, out=a)
    if k.rectified:
        a /= root_of(k, v, out=b)
    moved(k, p, a)


RADAM = Rule(
    "radam",
    ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize", *STORAGE),
    ("exp_avg", "exp_avg_sq"),
    scalars,
    step,
    positive=("exp_avg_sq",),
    units={"exp_avg": "exp_avg_sq"},
)
