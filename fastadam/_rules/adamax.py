"""Kingma & Ba, arXiv:1412.6980, algorithm 2."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam._hyper import Hyper
from fastadam._rules.rule import Block, Rule, Scalars, decayed, moved, power


def scalars(k: Scalars, h: Hyper) -> None:
    k.step_size = k.real(k.lr / (1 - power(k.b1, k.step)))


def step(k: Scalars, p: Block, g: Block, s: Any, a: Block, b: Block, c: Block) -> None:
    m, u = s
    decayed(k, m, k.b1, k.c1, g, b)
    np.multiply(k.b2, u, out=u)
    np.maximum(u, np.add(np.abs(g, out=a), k.eps, out=a), out=u)
    np.multiply(k.step_size, m, out=a)
    moved(k, p, np.divide(a, u, out=a))


ADAMAX = Rule(
    "adamax",
    ("lr", "betas", "eps", "weight_decay", "maximize"),
    ("exp_avg", "exp_inf"),
    scalars,
    step,
)
