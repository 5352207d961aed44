"""Pagliardini, Ablin & Grangier, "The AdEMAMix Optimizer: Better, Faster, Older",
arXiv:2409.03137, algorithm 1; the schedules of alpha and beta3 are those of its section 3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastadam._elementary import root_power
from fastadam._hyper import Hyper
from fastadam._rules.rule import (
    STORAGE,
    Others,
    Rule,
    Scalars,
    Vector,
    decayed,
    moved,
    power,
    root_of,
)


def scalars(k: Scalars, h: Hyper) -> None:
    bc1, bc2 = 1 - power(k, 0, k.b1, k.step), 1 - power(k, 1, k.b2, k.step)
    t = float(k.step)
    alpha, beta3 = h.alpha, h.beta3
    if t < h.t_alpha:
        alpha = alpha * (t / h.t_alpha)
    if t < h.t_beta3:
        done = t / h.t_beta3
        part = done + (1 - done) * h.half_life_ratio
        if part < 1:
            beta3 = root_power(beta3, 1 / part)
    k.b3, k.c3 = k.shares(beta3)
    k.step_size = k.real(k.lr / bc1)
    k.slow_step = k.real(k.lr * alpha)
    k.root = k.factor(1 / math.sqrt(bc2))


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    fast, slow, v = s
    decayed(k, fast, k.b1, k.c1, g, b)
    decayed(k, slow, k.b3, k.c3, g, b)
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    denom = root_of(k, v, out=b)
    np.multiply(k.step_size, fast, out=a)
    a += np.multiply(k.slow_step, slow, out=c)
    a /= denom
    moved(k, p, a)


ADEMAMIX = Rule(
    "ademamix",
    ("lr", "betas", "eps", "weight_decay", "alpha", "t_alpha", "t_beta3",
     "decoupled_weight_decay", "maximize", *STORAGE),
    ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq"),
    scalars,
    step,
    positive=("exp_avg_sq",),
    units={"exp_avg_fast": "exp_avg_sq", "exp_avg_slow": "exp_avg_sq"},
    others=Others(
        names=[("exp_avg", "exp_avg_fast"), ("alpha_warmup", "t_alpha"),
               ("beta3_warmup", "t_beta3"), ("t_alpha_beta3", "t_alpha"),
               ("t_alpha_beta3", "t_beta3")],
        counts={"step": "step"},
        options={"weight_decouple": True, "fixed_decay": False, "foreach": None},
        of_decay=("weight_decouple", "fixed_decay"),
    ),
)  # fmt: skip
