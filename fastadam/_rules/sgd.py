"""Sutskever et al., "On the importance of initialization and momentum in deep learning",
2013, in torch.optim's form.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam._hyper import Hyper
from fastadam._rules.rule import STORAGE, Rule, Scalars, Vector, decayed, moved


def scalars(k: Scalars, h: Hyper) -> None:
    k.step_size = k.real(k.lr)
    k.fresh = k.real(1 if k.step == 1 else 1 - h.dampening)


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    (buffer,) = s
    if k.hyper.momentum != 0:
        decayed(k, buffer, k.momentum, k.fresh, g, b)
        if k.hyper.nesterov:
            g = np.add(g, np.multiply(k.momentum, buffer, out=a), out=a)
        else:
            g = buffer
    moved(k, p, np.multiply(k.step_size, g, out=a))


SGD = Rule(
    "sgd",
    ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize", *STORAGE),
    ("momentum_buffer",),
    scalars,
    step,
    asked={"momentum_buffer": "momentum"},
    saves_step=False,
)
