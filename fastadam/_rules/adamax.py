"""Kingma & Ba, arXiv:1412.6980, algorithm 2."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam._hyper import Hyper
from fastadam._rules.rule import STORAGE, Rule, Scalars, Vector, decayed, moved, power


def scalars(k: Scalars, h: Hyper) -> None:
    k.step_size = k.real(k.lr / (1 - power(k, 0, k.b1, k.step)))


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    m, u = s
    decayed(k, m, k.b1, k.c1, g, b)
    u *= k.b2
    np.abs(g, out=a)
    a += k.eps
    np.maximum(u, a, out=u)
    np.multiply(k.step_size, m, out=a)
    a /= u
    moved(k, p, a)


ADAMAX = Rule(
    "adamax",
    ("lr", "betas", "eps", "weight_decay", "maximize", *STORAGE),
    ("exp_avg", "exp_inf"),
    scalars,
    step,
    positive=("exp_inf",),
    units={"exp_avg": "exp_inf"},
    roots=False,
)
