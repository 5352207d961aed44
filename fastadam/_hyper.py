"""Hyper-parameters: their defaults, ranges and the plain numbers the rule uses.

Names, ranges and the wording of range errors are torch.optim's.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Schedule: TypeAlias = Callable[[int], float]
Group: TypeAlias = dict[str, Any]

#: What a param group holds besides its "params".
FLAGS = ("amsgrad", "maximize", "decoupled_weight_decay", "epsilon_hat")
KEYS = ("lr", "betas", "eps", "weight_decay", *FLAGS)


FLOAT32_MAX, FLOAT64_MAX = (float(np.finfo(dtype).max) for dtype in (np.float32, np.float64))


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

    float32: bool  # some are float32 or complex64, to which numbers will be rounded
    max_exp_avg_sq: bool  # there is state for amsgrad
    params: tuple[Any, ...]  # the arrays themselves


STRICT = Traits(float32=True, max_exp_avg_sq=True, params=())  # what suits these suits all


def check_group(group: Group, traits: Traits) -> Hyper:
    """Check a group and store its values in it as plain Python numbers.

    Plain numbers cannot change behind a group's back, so the compiled backend
    need not look at them again until one is replaced.
    """
    missing = [key for key in KEYS if key not in group]
    if missing:
        raise KeyError(f"a param group lacks {missing[0]!r}")
    lr = group["lr"] if callable(group["lr"]) else check_lr(group["lr"], traits)
    try:
        beta1, beta2 = group["betas"]
    except (TypeError, ValueError):
        raise ValueError(f"betas must be two numbers, found {group['betas']!r}") from None
    beta1, beta2 = _beta(0, beta1, traits), _beta(1, beta2, traits)
    eps = _real("eps", group["eps"])
    if not 0.0 <= eps < _largest(traits):
        raise ValueError(f"Invalid epsilon value: {eps}")
    weight_decay = _real("weight_decay", group["weight_decay"])
    if not 0.0 <= weight_decay < _largest(traits):
        raise ValueError(f"Invalid weight_decay value: {weight_decay}")
    flags = {key: _flag(key, group[key]) for key in FLAGS}
    if flags["amsgrad"] and not traits.max_exp_avg_sq:
        raise ValueError("amsgrad was switched on after the optimizer was made without it")
    params = group.get("params", ())
    if len(params) != len(traits.params) or any(
        p is not q for p, q in zip(params, traits.params, strict=True)
    ):
        raise ValueError(
            "a param group's 'params' were replaced or groups were reordered; "
            "use add_param_group, or make a new optimizer"
        )
    group.update(
        params=traits.params,
        lr=lr,
        betas=(beta1, beta2),
        eps=eps,
        weight_decay=weight_decay,
        **flags,
    )
    return Hyper(lr, beta1, beta2, eps, weight_decay, *flags.values())


def are_fixed(values: Sequence[Any]) -> bool:
    """Whether the same objects will always mean the same hyper-parameters."""
    return all(
        type(value) in (float, bool) or (type(value) is tuple and are_fixed(value))
        for value in values
    )


def check_lr(value: Any, traits: Traits | None = None, source: str = "") -> float:
    """Check a learning rate; `source` tells where it comes from if not from the user."""
    if not _is_real(value):
        raise TypeError(
            "lr must be a real number or a function of the number of finished steps, "
            f"found {type(value).__name__}{source}"
        )
    lr = _to_float(value)
    if not 0.0 <= lr < _largest(traits):
        raise ValueError(f"Invalid learning rate: {lr}{source}")
    return lr


def lr_now(hyper: Hyper, finished: int, traits: Traits) -> float:
    """The learning rate after so many finished steps."""
    if callable(hyper.lr):
        source = f", returned by the function lr({finished})"
        return check_lr(hyper.lr(finished), traits, source)
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


def check_loss_scale(value: Any, traits: Sequence[Traits]) -> float:
    """Check the factor by which the loss was multiplied: gradients are divided by it."""
    scale = _real("loss_scale", value)
    largest = FLOAT32_MAX if any(t.float32 for t in traits) else FLOAT64_MAX
    if not 1 / largest <= scale <= largest:
        raise ValueError(f"Invalid loss_scale: {scale}")
    return scale


def _beta(index: int, value: Any, traits: Traits) -> float:
    beta = _real(f"betas[{index}]", value)
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if traits.float32 and np.float32(beta) == 1:
        raise ValueError(f"Invalid beta parameter at index {index}: {beta} is 1 in float32")
    return beta


def _largest(traits: Traits | None) -> float:
    """What numbers must stay below so as not to become infinite in the arrays' dtype."""
    return FLOAT32_MAX if traits and traits.float32 else math.inf


def _is_real(value: Any) -> bool:
    if type(value) is float:
        return True
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _real(name: str, value: Any) -> float:
    if not _is_real(value):
        raise TypeError(f"{name} must be a real number, found {type(value).__name__}")
    return _to_float(value)


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _flag(name: str, value: Any) -> bool:
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise TypeError(f"{name} must be True or False, found {value!r}")
    return bool(value)
