"""Tieleman & Hinton, lecture 6.5 of "Neural Networks for Machine Learning", 2012; centered:
Graves, arXiv:1308.0850, equations 38-45.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam._hyper import Hyper
from fastadam._rules.rule import STORAGE, Rule, Scalars, Vector, decayed, moved, normal, root_of


def scalars(k: Scalars, h: Hyper) -> None:
    k.b2, k.c2 = k.shares(h.alpha)
    k.step_size, k.root = k.real(k.lr), k.factor(1)


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    v, buffer, mean = s
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    if k.hyper.centered:
        decayed(k, mean, k.b2, k.c2, g, b)
        v = np.subtract(v, np.multiply(mean, mean, out=a), out=a)
        np.maximum(v, 0, out=v)
    denom = root_of(k, v, out=b)
    if k.hyper.momentum == 0:
        np.multiply(k.step_size, g, out=a)
        a /= denom
        moved(k, p, a)
        return
    buffer *= k.momentum
    buffer += np.divide(g, denom, out=a)
    normal(k, buffer, b)
    moved(k, p, np.multiply(k.step_size, buffer, out=a))


RMSPROP = Rule(
    "rmsprop",
    ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize", *STORAGE),
    ("square_avg", "momentum_buffer", "grad_avg"),
    scalars,
    step,
    asked={"momentum_buffer": "momentum", "grad_avg": "centered"},
    positive=("square_avg",),
)
