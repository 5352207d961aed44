"""Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate",
arXiv:2411.02853, algorithm 2; with the clipping that its authors added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam._elementary import root_power
from fastadam._hyper import Hyper
from fastadam._rules.rule import STORAGE, Others, Rule, Scalars, Vector, decayed, moved, normal


def scalars(k: Scalars, h: Hyper) -> None:
    k.step_size = k.real(k.lr)
    k.limit = k.real(root_power(k.step - 1, h.clip)) if k.step > 1 and h.clip >= 0 else None


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    m, v = s
    if k.step == 1:
        normal(k, np.multiply(g, g, out=v), b, positive=True)
        return
    np.sqrt(v, out=b)
    ratio = np.divide(g, np.maximum(b, k.eps, out=b), out=a)
    if k.limit is not None:
        np.clip(ratio, -k.limit, k.limit, out=ratio)
    decayed(k, m, k.b1, k.c1, ratio, b)
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    moved(k, p, np.multiply(k.step_size, m, out=a))


ADOPT = Rule(
    "adopt",
    ("lr", "betas", "eps", "weight_decay", "clip", "decoupled_weight_decay", "maximize",
     *STORAGE),
    ("exp_avg", "exp_avg_sq"),
    scalars,
    step,
    positive=("exp_avg_sq",),
    others=Others(
        names=[("decouple", "decoupled_weight_decay"),
               ("weight_decouple", "decoupled_weight_decay")],
        counts={"step": "step"},
        options={"fixed_decay": False, "foreach": None},
        of_decay=("fixed_decay",),
    ),
)  # fmt: skip
