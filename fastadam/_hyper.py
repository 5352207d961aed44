"""Hyper-parameters: their defaults, ranges and the plain numbers the rule uses.

Names, ranges and the wording of range errors are torch.optim's.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Schedule: TypeAlias = Callable[[int], float]
Group: TypeAlias = dict[str, Any]

#: What a param group holds besides its "params", with Adam's defaults.
DEFAULTS: Group = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
    "maximize": False,
    "decoupled_weight_decay": False,
    "epsilon_hat": False,
}
KEYS = tuple(DEFAULTS)


class Hyper(NamedTuple):
    """One group's hyper-parameters, checked."""

    lr: float | Schedule
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    amsgrad: bool
    maximize: bool
    decoupled: bool
    epsilon_hat: bool


class Clip(NamedTuple):
    """What is done about the gradients' norm."""

    max_grad_norm: float  # infinity: no clipping
    skip_nonfinite: bool
    measures: bool  # whether anybody asks for the norm


class Traits(NamedTuple):
    """What a group's arrays ask of its hyper-parameters."""

    float32: bool  # betas must stay below 1 when rounded to float32
    max_exp_avg_sq: bool  # there is state for amsgrad


def check_group(group: Group, traits: Traits) -> Hyper:
    """Check a group and store its values in it as plain Python numbers.

    Plain numbers cannot change behind a group's back, so the compiled backend
    need not look at them again until one is replaced.
    """
    missing = [key for key in KEYS if key not in group]
    if missing:
        raise KeyError(f"a param group lacks {missing[0]!r}")
    lr = group["lr"] if callable(group["lr"]) else check_lr(group["lr"])
    try:
        beta1, beta2 = group["betas"]
    except (TypeError, ValueError):
        raise ValueError(f"betas must be two numbers, found {group['betas']!r}") from None
    beta1, beta2 = _beta(0, beta1, traits), _beta(1, beta2, traits)
    eps = _real("eps", group["eps"])
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"Invalid epsilon value: {eps}")
    weight_decay = _real("weight_decay", group["weight_decay"])
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"Invalid weight_decay value: {weight_decay}")
    flags = {key: _flag(key, group[key]) for key in KEYS[4:]}
    if flags["amsgrad"] and not traits.max_exp_avg_sq:
        raise ValueError("amsgrad was switched on after the optimizer was made without it")
    group.update(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, **flags)
    return Hyper(lr, beta1, beta2, eps, weight_decay, *flags.values())


def check_lr(value: Any, source: str = "") -> float:
    """Check a learning rate; `source` tells where it comes from if not from the user."""
    if not _is_real(value):
        raise TypeError(
            "lr must be a real number or a function of the number of finished steps, "
            f"found {type(value).__name__}{source}"
        )
    lr = float(value)
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"Invalid learning rate: {lr}{source}")
    return lr


def lr_now(hyper: Hyper, finished: int) -> float:
    """The learning rate after so many finished steps."""
    if callable(hyper.lr):
        return check_lr(hyper.lr(finished), f", returned by the function lr({finished})")
    return hyper.lr


def check_clip(max_grad_norm: Any, skip_nonfinite: Any) -> Clip:
    """Check the options of the gradients' norm."""
    skip = _flag("skip_nonfinite", skip_nonfinite)
    if max_grad_norm is None:
        return Clip(math.inf, skip, skip)
    limit = _real("max_grad_norm", max_grad_norm)
    if math.isnan(limit) or limit <= 0.0:
        raise ValueError(f"Invalid max_grad_norm value: {limit}")
    return Clip(limit, skip, True)


def check_loss_scale(value: Any) -> float:
    """Check the factor by which the loss was multiplied."""
    scale = _real("loss_scale", value)
    if not 0.0 < scale < math.inf:
        raise ValueError(f"Invalid loss_scale: {scale}")
    return scale


def _beta(index: int, value: Any, traits: Traits) -> float:
    beta = _real(f"betas[{index}]", value)
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if traits.float32 and np.float32(beta) == 1:
        raise ValueError(f"Invalid beta parameter at index {index}: {beta} is 1 in float32")
    return beta


def _is_real(value: Any) -> bool:
    if type(value) is float:
        return True
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return isinstance(value, numbers.Real)


def _real(name: str, value: Any) -> float:
    if not _is_real(value):
        raise TypeError(f"{name} must be a real number, found {type(value).__name__}")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise TypeError(f"{name} must be True or False, found {value!r}")
    return bool(value)
