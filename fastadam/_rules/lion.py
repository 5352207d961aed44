"""Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam._hyper import Hyper
from fastadam._rules.rule import STORAGE, Rule, Scalars, Vector, decayed, moved


def scalars(k: Scalars, h: Hyper) -> None:
    k.step_size = k.real(k.lr)


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    (m,) = s
    np.multiply(k.b1, m, out=a)
    a += np.multiply(k.c1, g, out=b)
    a *= k.per_smallest_normal
    direction = np.clip(a, -1, 1, out=a)  # its sign
    decayed(k, m, k.b2, k.c2, g, b)
    moved(k, p, np.multiply(k.step_size, direction, out=a))


LION = Rule(
    "lion",
    ("lr", "betas", "weight_decay", "decoupled_weight_decay", "maximize", *STORAGE),
    ("exp_avg",),
    scalars,
    step,
    saves_step=False,
)
