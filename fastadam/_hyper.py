"""Hyper-parameters: their ranges and the plain numbers that the rules use.

Names, ranges and the wording of range errors are torch.optim's.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from fastadam._elementary import half_life_ratio, real_power

Schedule: TypeAlias = Callable[[int], float]
Group: TypeAlias = dict[str, Any]

FLOAT32_MAX, FLOAT64_MAX = (float(np.finfo(dtype).max) for dtype in (np.float32, np.float64))
#: What messages say of decay rates out of range.
EXPECTED_DECAY = "expected a number from 0 to less than 1"
ONE_IN_FLOAT32 = "1 in float32; expected at most 0.9999999"
#: How moments may be stored.
STATE_DTYPES = (None, "bfloat16", "int8")
#: Types of numbers that never change.
FIXED = {float, int, bool, str, type(None)} | {
    kind for kind in np.sctypeDict.values() if issubclass(kind, np.floating | np.integer | np.bool_)
}


class Hyper(SimpleNamespace):
    """One group's hyper-parameters, checked, under the names that the rules use.

    Those that the group's rule does not have are zero.
    """


class Clip(NamedTuple):
    """What is done about the gradients' norm."""

    max_grad_norm: float  # infinity: no clipping
    skip_nonfinite: bool
    measures: bool  # whether anybody asks for the norm


class Traits(NamedTuple):
    """What must be known of a group's rule and arrays to check its hyper-parameters."""

    options: tuple[str, ...]  # the hyper-parameters that the rule has
    float32: bool  # whether an array is float32 or complex64: numbers are rounded to that
    #: The arrays that a param group of a user must have; None for a group that is no user's.
    params: tuple[Any, ...] | None = None
    #: Options that need an array of state which was not made.
    lacking: tuple[str, ...] = ()
    ema_decay: float = 0.0
    #: What `state_dtype` may be: all, until state is made with one.
    state_dtypes: tuple[str | None, ...] = STATE_DTYPES


def check_group(group: Mapping[str, Any], traits: Traits) -> Hyper:
    """Check a param group for a step: its options, its mode, and that it still has its arrays."""
    hyper = check_options(group, traits)
    check_mode(group)
    check_params(group, traits)
    return hyper


def check_mode(group: Mapping[str, Any]) -> None:
    """Check that a group's parameters are where a step may begin."""
    if not group.get("train_mode", True):
        raise RuntimeError(
            "the parameters are where the model is evaluated; call train() before a step"
        )


def check_options(group: Mapping[str, Any], traits: Traits) -> Hyper:
    """Check a group's options, and give the numbers that its arrays are stepped with."""
    values = checked(group, traits)
    for name, (fields, parts) in FIELDS.items():
        if name in values:
            values.update(zip(fields, parts(values.pop(name)), strict=False))
    return Hyper(**{**ABSENT, **values, "ema_decay": traits.ema_decay})


def check_params(group: Mapping[str, Any], traits: Traits) -> None:
    """Check that the user did not put other arrays into a group, or another group in its place."""
    if traits.params is None:
        return
    params = group.get("params", ())
    if len(params) != len(traits.params) or any(
        p is not q for p, q in zip(params, traits.params, strict=True)
    ):
        raise ValueError(
            "a param group's 'params' were replaced or groups were reordered; "
            "use add_param_group, or make a new optimizer"
        )


def checked(group: Mapping[str, Any], traits: Traits) -> Group:
    """A group's options as plain Python numbers, or an error.

    They are not stored in the group: whoever sets one meanwhile, such as another thread or a
    signal handler, would lose it.
    """
    missing = [key for key in traits.options if key not in group]
    if missing:
        raise KeyError(f"a param group lacks {missing[0]!r}; put it back into the group")
    values = {key: OPTIONS[key](key, group[key], traits) for key in traits.options}
    for key in traits.lacking:
        if values[key]:
            raise ValueError(
                f"{key} was switched on after the optimizer was made without it; "
                "make a new optimizer with it"
            )
    for key, check in CONDITIONS.items():
        if key in values:
            check(values)
    if traits.float32 and np.float32(traits.ema_decay) == 1:
        raise ValueError(f"Invalid ema_decay value: {traits.ema_decay} is {ONE_IN_FLOAT32}")
    return values


def plain(group: Mapping[str, Any], traits: Traits) -> Group:
    """A group as users and files are shown it: its options as plain numbers.

    An option that the next step will refuse stays as it is.
    """
    shown = dict(group)
    for key in traits.options:
        with suppress(Exception):  # whatever a user's object raises when it is to be a number
            shown[key] = OPTIONS[key](key, group[key], traits)
    return shown


def are_fixed(values: Iterable[Any]) -> bool:
    """Whether the same objects will always mean the same hyper-parameters."""
    return all(
        type(value) in FIXED or (type(value) is tuple and are_fixed(value)) for value in values
    )


def is_fixed(group: Mapping[str, Any], traits: Traits) -> bool:
    """Whether a group that has the same objects again needs no check.

    A subclass of dict may compute what it gives, and lists and arrays can be changed in place.
    A learning rate that is a function is called at every step anyway.
    """
    return (
        type(group) is dict
        and (traits.params is None or type(group.get("params")) is tuple)
        and are_fixed(
            group[key] for key in traits.options if key != "lr" or not callable(group[key])
        )
    )


def lr_option(key: str, value: Any, traits: Traits | None = None) -> float | Schedule:
    """Check a learning rate as a user sets it: a number, or a function that gives one."""
    if not callable(value):
        return check_lr(value, traits)
    if _makes_schedules(value):
        name = value.__name__
        raise TypeError(
            f"lr is {name} itself, which makes learning rates and is none; call it, "
            f"as in lr={name}(...)"
        )
    return cast(Schedule, value)


def _makes_schedules(function: Callable[..., Any]) -> bool:
    """Whether it was probably to be called first: a class, or a function of several arguments."""
    if not isinstance(function, FunctionType):
        return isinstance(function, type)
    needed = function.__code__.co_argcount - len(function.__defaults__ or ())
    return needed > 1 or function.__module__ == "fastadam.schedules"


def check_lr(value: Any, traits: Traits | None = None, source: str = "") -> float:
    """Check a learning rate; `source` tells where it comes from if not from the user."""
    lr = _number_in(value)
    if lr is None:
        function = "" if source else " or a function of the number of finished steps"
        raise TypeError(f"lr must be a real number{function}, found {type(value).__name__}{source}")
    if not 0.0 <= lr < _largest(traits):
        raise ValueError(f"Invalid learning rate: {lr}{source}; {_expected(traits)}")
    return lr


def lr_now(hyper: Hyper, finished: int, traits: Traits) -> float:
    """The learning rate after so many finished steps."""
    if callable(hyper.lr):
        source = f", returned by the function lr({finished})"
        return check_lr(hyper.lr(finished), traits, source)
    lr: float = hyper.lr
    return lr


def check_ema_decay(value: Any) -> float | None:
    """Check the decay of the parameters' moving average; None for no average."""
    if value is None:
        return None
    decay = real("ema_decay", value)
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"Invalid ema_decay value: {decay}; {EXPECTED_DECAY}")
    return decay


def check_clip(max_grad_norm: Any, skip_nonfinite: Any) -> Clip:
    """Check the options of the gradients' norm."""
    skip = flag("skip_nonfinite", skip_nonfinite)
    if max_grad_norm is None:
        return Clip(math.inf, skip, skip)
    limit = real("max_grad_norm", max_grad_norm)
    if math.isnan(limit) or limit <= 0.0:
        raise ValueError(
            f"Invalid max_grad_norm value: {limit}; expected a number above 0, or None to leave "
            "gradients as they are"
        )
    return Clip(limit, skip, True)


def check_loss_scale(value: Any, traits: Sequence[Traits]) -> float:
    """Check the factor by which the loss was multiplied: gradients are divided by it."""
    scale = real("loss_scale", value)
    largest = FLOAT32_MAX if any(t.float32 for t in traits) else FLOAT64_MAX
    if not 1 / largest <= scale <= largest:
        bounds = f"from {1 / largest:.4g} to {largest:.4g}"
        raise ValueError(f"Invalid loss_scale: {scale}; expected a number {bounds}")
    return scale


def _betas(key: str, value: Any, traits: Traits) -> tuple[float, ...]:
    n, expected = (3, "three") if "t_beta3" in traits.options else (2, "two")
    try:
        betas = tuple(value)
    except TypeError:
        betas = ()
    if len(betas) != n:
        raise ValueError(f"betas must be {expected} numbers, found {value!r}")
    return tuple(_beta(index, beta, traits) for index, beta in enumerate(betas))


def _beta(index: int, value: Any, traits: Traits) -> float:
    beta = real(f"betas[{index}]", value)
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"Invalid beta parameter at index {index}: {beta}; {EXPECTED_DECAY}")
    if traits.float32 and np.float32(beta) == 1:
        raise ValueError(f"Invalid beta parameter at index {index}: {beta} is {ONE_IN_FLOAT32}")
    return beta


def _number(key: str, value: Any, traits: Traits) -> float:
    """Not negative, as in torch.optim, and not infinite."""
    number = real(key, value)
    if not 0.0 <= number < _largest(traits):
        name = "epsilon" if key == "eps" else key
        raise ValueError(f"Invalid {name} value: {number}; {_expected(traits)}")
    return number


def _exponent(key: str, value: Any, traits: Traits) -> float:
    number = real(key, value)
    if not 0.0 <= number <= 16.0:  # of a number of steps, it is finite
        raise ValueError(f"Invalid {key} value: {number}; expected a number from 0 to 16")
    return number


def _steps(key: str, value: Any, traits: Traits) -> float | None:
    """A number of steps, or None."""
    return None if value is None else _number(key, value, traits)


def _beta_fields(betas: tuple[float, ...]) -> Iterable[float]:
    """The betas and, where there are three, what part of the third's half-life the first's is."""
    return betas if len(betas) == 2 else (*betas, half_life_ratio(betas[0], betas[2]))


def _largest(traits: Traits | None) -> float:
    """What numbers must stay below so as not to become infinite in the arrays' dtype."""
    return FLOAT32_MAX if traits and traits.float32 else math.inf


def _expected(traits: Traits | None) -> str:
    """What messages say of numbers that must be in the range from 0 to `_largest`."""
    if traits and traits.float32:
        return f"expected a number from 0 to less than {FLOAT32_MAX:.4g}, float32's largest"
    return "expected a finite number from 0 on"


def real(name: str, value: Any) -> float:
    """Check a real number."""
    number = _number_in(value)
    if number is None:
        raise TypeError(f"{name} must be a real number, found {type(value).__name__}")
    return number


def _number_in(value: Any) -> float | None:
    """The real number that this is, or that an array without axes has in it; None for others."""
    if type(value) is float:
        return value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # also JAX's and torch's
        value = value.item()
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _clip(key: str, value: Any, traits: Traits) -> float | None:
    if value is None:
        return None
    exponent = real(key, value)
    if not 0.0 <= exponent <= 1.0:
        raise ValueError(f"Invalid clip value: {exponent}; expected a number from 0 to 1, or None")
    return exponent


def flag(name: str, value: Any, traits: Traits | None = None) -> bool:
    """Check a switch."""
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise TypeError(f"{name} must be True or False, found {value!r}")
    return bool(value)


def _state_dtype(name: str, value: Any, traits: Traits) -> str | None:
    is_known = value is None or (isinstance(value, str) and value in STATE_DTYPES)
    if is_known and value in traits.state_dtypes:
        return None if value is None else str(value)
    if is_known:
        raise ValueError(
            f"state_dtype was set to {value!r} after the state was made with "
            f"{traits.state_dtypes[0]!r}; make a new optimizer with it"
        )
    raise ValueError(f"Invalid state_dtype: {value!r}; expected None, 'bfloat16' or 'int8'")


def _seed(name: str, value: Any, traits: Traits) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"seed must be an integer, found {type(value).__name__}")
    if not 0 <= int(value) < 2**32:
        raise ValueError(f"Invalid seed: {value}; expected an integer from 0 to 2**32 - 1")
    return int(value)


def _check_centered(values: Group) -> None:
    if values["centered"] and values["state_dtype"]:
        raise ValueError(
            "centered subtracts two nearly equal averages, of which a state_dtype would leave too "
            "few digits; use one without the other"
        )


def _check_schedule_free(values: Group) -> None:
    if values["betas"][0] == 0.0:
        raise ValueError(
            "betas[0] is 0, with which the point of evaluation is lost; expected a number above 0"
        )


def _check_nesterov(values: Group) -> None:
    if values["nesterov"] and (values["momentum"] == 0 or values["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")


#: All hyper-parameters: how each is checked, by itself, and becomes a plain number.
OPTIONS: dict[str, Callable[[str, Any, Traits], Any]] = {
    "lr": lr_option,
    "betas": _betas,
    "eps": _number,
    "weight_decay": _number,
    "alpha": _number,
    "momentum": _number,
    "dampening": _number,
    "momentum_decay": _number,
    "clip": _clip,
    "warmup_steps": _number,
    "r": _exponent,
    "weight_lr_power": _exponent,
    "t_alpha": _steps,
    "t_beta3": _steps,
    "amsgrad": flag,
    "maximize": flag,
    "decoupled_weight_decay": flag,
    "epsilon_hat": flag,
    "nesterov": flag,
    "centered": flag,
    "train_mode": flag,
    "state_dtype": _state_dtype,
    "seed": _seed,
}
#: What some ask of the others, in the same group.
CONDITIONS: dict[str, Callable[[Group], None]] = {
    "nesterov": _check_nesterov,
    "centered": _check_centered,
    "train_mode": _check_schedule_free,
}
#: Those that rules know in parts, or as another number: its name or names, and how they are made.
FIELDS: dict[str, tuple[tuple[str, ...], Callable[[Any], Iterable[float]]]] = {
    "betas": (("beta1", "beta2", "beta3", "half_life_ratio"), _beta_fields),
    "momentum_decay": (("psi",), lambda decay: [real_power(0.96, decay)]),
    "t_alpha": (("t_alpha",), lambda steps: [steps or 0.0]),
    "t_beta3": (("t_beta3",), lambda steps: [steps or 0.0]),
    "clip": (("clip",), lambda exponent: [-1.0 if exponent is None else exponent]),
    "state_dtype": ((), lambda dtype: ()),  # arrays of state show it
    "train_mode": ((), lambda mode: ()),
}
#: All that a rule may ask for, as it is where a group has no such option.
ABSENT = dict.fromkeys(
    [field for name in OPTIONS for field in FIELDS.get(name, ((name,),))[0]] + ["ema_decay"], 0
)
