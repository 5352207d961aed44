"""Defazio et al., "The Road Less Scheduled", arXiv:2405.15682, algorithm 1. The parameter is y,
where gradients are taken; x, where the model is evaluated, is between y and the state z.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastadam._elementary import root_power
from fastadam._hyper import Hyper
from fastadam._rules.rule import (
    STORAGE,
    Number,
    Others,
    Rule,
    Scalars,
    Vector,
    decayed,
    power,
    root_of,
)


def scalars(k: Scalars, h: Hyper) -> None:
    t = float(k.step)
    weight_sum, lr_max = k.numbers
    lr = k.lr * (t / h.warmup_steps) if t < h.warmup_steps else k.lr
    lr_max = max(lr, lr_max)
    weight = root_power(t, h.r) * root_power(lr_max, h.weight_lr_power)
    weight_sum = weight_sum + weight
    share = weight / weight_sum if weight_sum > 0 else 0.0
    k.z_share = k.real(share)
    k.grad_step = k.real(lr * (1 - h.beta1 * (1 - share)))
    k.step_size = k.real(lr)
    k.root = k.factor(1 / math.sqrt(1 - power(k, 0, k.b2, k.step)))
    k.numbers = (weight_sum, lr_max)


def step(k: Scalars, p: Vector, g: Vector, s: Any, a: Vector, b: Vector, c: Vector) -> None:
    z, v = s
    if k.step == 1:
        z[:] = p
    decayed(k, v, k.b2, k.c2, np.multiply(g, g, out=a), b, positive=True)
    update = np.divide(g, root_of(k, v, out=b), out=a)
    update += np.multiply(k.weight_decay, p, out=b)
    np.subtract(z, p, out=b)
    b *= k.z_share
    p += b
    z -= np.multiply(k.step_size, update, out=b)
    p -= np.multiply(k.grad_step, update, out=b)


SCHEDULE_FREE = Rule(
    "schedule_free",
    ("lr", "betas", "eps", "weight_decay", "warmup_steps", "r", "weight_lr_power",
     "decoupled_weight_decay", "maximize", "train_mode", *STORAGE),
    ("z", "exp_avg_sq"),
    scalars,
    step,
    numbers=(Number("weight_sum", first=0.0), Number("lr_max", first=0.0)),
    positive=("exp_avg_sq",),
    exact=("z",),
    others=Others(
        counts={"k": "step", "weight_sum": "weight_sum", "lr_max": "lr_max"},
        options={"scheduled_lr": 0.0, "foreach": False},
    ),
    needs_all_rows="its average gives all rows of a step the same weight",
)  # fmt: skip


def moved_towards(start: Any, end: Any, share: float) -> Any:
    """What lies at that share of the way between two arrays: 0 is the start, 1 the end."""
    return start + start.real.dtype.type(share) * (end - start)
