"""Hyper-parameters: their ranges and the plain numbers that the rules use.

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

FLOAT32_MAX, FLOAT64_MAX = (float(np.finfo(dtype).max) for dtype in (np.float32, np.float64))


class Hyper(NamedTuple):
    """One group's hyper-parameters, checked; a rule uses some of them."""

    lr: float | Schedule
    beta1: float = 0.0
    beta2: float = 0.0
    eps: float = 0.0
    weight_decay: float = 0.0
    alpha: float = 0.0
    momentum: float = 0.0
    dampening: float = 0.0
    momentum_decay: float = 0.0
    ema_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled_weight_decay: bool = False
    epsilon_hat: bool = False
    nesterov: bool = False
    centered: bool = False


class Clip(NamedTuple):
    """What is done about the gradients' norm."""

    max_grad_norm: float  # infinity: no clipping
    skip_nonfinite: bool
    measures: bool  # whether anybody asks for the norm


class Traits(NamedTuple):
    """What a group's arrays ask of its hyper-parameters."""

    options: tuple[str, ...]  # the hyper-parameters that there are
    float32: bool  # some are float32 or complex64, to which numbers will be rounded
    params: tuple[Any, ...]  # the arrays themselves
    #: Options that need an array of state which was not made.
    lacking: frozenset[str] = frozenset()
    ema_decay: float = 0.0


def check_group(group: Group, traits: Traits) -> Hyper:
    """Check a group and store its values in it as plain Python numbers.

    Plain numbers cannot change behind a group's back, so the compiled backend
    need not look at them again until one is replaced.
    """
    missing = [key for key in traits.options if key not in group]
    if missing:
        raise KeyError(f"a param group lacks {missing[0]!r}")
    values = {key: _CHECKS[key](key, group[key], traits) for key in traits.options}
    for key in traits.lacking:
        if values[key]:
            raise ValueError(f"{key} was switched on after the optimizer was made without it")
    if values.get("nesterov") and (values["momentum"] == 0 or values["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")
    params = group.get("params", ())
    if len(params) != len(traits.params) or any(
        p is not q for p, q in zip(params, traits.params, strict=True)
    ):
        raise ValueError(
            "a param group's 'params' were replaced or groups were reordered; "
            "use add_param_group, or make a new optimizer"
        )
    if traits.float32 and np.float32(traits.ema_decay) == 1:
        raise ValueError(f"Invalid ema_decay value: {traits.ema_decay} is 1 in float32")
    group.update(values, params=traits.params)
    if "betas" in values:
        values["beta1"], values["beta2"] = values.pop("betas")
    return Hyper(**values, ema_decay=traits.ema_decay)


def are_fixed(values: Sequence[Any]) -> bool:
    """Whether the same objects will always mean the same hyper-parameters."""
    return all(
        type(value) in (float, int, bool) or (type(value) is tuple and are_fixed(value))
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


def check_ema_decay(value: Any) -> float | None:
    """Check the decay of the parameters' moving average; None for no average."""
    if value is None:
        return None
    decay = _real("ema_decay", value)
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"Invalid ema_decay value: {decay}")
    return decay


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


def _lr(key: str, value: Any, traits: Traits) -> float | Schedule:
    return value if callable(value) else check_lr(value, traits)


def _betas(key: str, value: Any, traits: Traits) -> tuple[float, float]:
    try:
        beta1, beta2 = value
    except (TypeError, ValueError):
        raise ValueError(f"betas must be two numbers, found {value!r}") from None
    return _beta(0, beta1, traits), _beta(1, beta2, traits)


def _beta(index: int, value: Any, traits: Traits) -> float:
    beta = _real(f"betas[{index}]", value)
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if traits.float32 and np.float32(beta) == 1:
        raise ValueError(f"Invalid beta parameter at index {index}: {beta} is 1 in float32")
    return beta


def _number(key: str, value: Any, traits: Traits) -> float:
    """Not negative, as in torch.optim, and not infinite."""
    number = _real(key, value)
    if not 0.0 <= number < _largest(traits):
        raise ValueError(f"Invalid {'epsilon' if key == 'eps' else key} value: {number}")
    return number


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


def _flag(key: str, value: Any, traits: Traits | None = None) -> bool:
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise TypeError(f"{key} must be True or False, found {value!r}")
    return bool(value)


_CHECKS: dict[str, Callable[[str, Any, Traits], Any]] = {
    "lr": _lr,
    "betas": _betas,
    **dict.fromkeys(
        ("eps", "weight_decay", "alpha", "momentum", "dampening", "momentum_decay"), _number
    ),
    **dict.fromkeys(
        ("amsgrad", "maximize", "decoupled_weight_decay", "epsilon_hat", "nesterov", "centered"),
        _flag,
    ),
}
