"""Kingma & Ba, arXiv:1412.6980, algorithm 1; AMSGrad: Reddi, Kale & Kumar, arXiv:1904.09237,
algorithm 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastadam._hyper import Hyper
from fastadam._rules.rule import STORAGE, Rule, Scalars, Vector, decayed, moved, power, root_of


def scalars(k: Scalars, h: Hyper) -> None:
    bc1, bc2 = 1 - power(k, 0, k.b1, k.step), 1 - power(k, 1, k.b2, k.step)
    k.step_size = k.real(k.lr * math.sqrt(bc2) / bc1 if h.epsilon_hat else k.lr / bc1)
    k.root = k.factor(1 if h.epsilon_hat else 1 / math.sqrt(bc2))


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    m, v, vmax = s
    decayed(k, m, k.b1, k.c1, g, b)
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    if k.hyper.amsgrad:
        v = np.maximum(vmax, v, out=vmax)
    denom = root_of(k, v, out=b)
    np.multiply(k.step_size, m, out=a)
    a /= denom
    moved(k, p, a)


ADAM = Rule(
    "adam",
    ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay",
     "epsilon_hat", *STORAGE),
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    scalars,
    step,
    asked={"max_exp_avg_sq": "amsgrad"},
    positive=("exp_avg_sq", "max_exp_avg_sq"),
    units={"exp_avg": "exp_avg_sq"},
)  # fmt: skip
