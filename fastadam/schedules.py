"""Learning rates that change from step to step.

Each function here makes a schedule: a function of the number of finished steps, 0
before the first, which an optimizer takes as its ``lr``. Schedules can be pickled and
copied and print as a call that makes them. After the last of their steps, where there
is one, the learning rate stays what it was there. Called with an array of numbers of
steps, they return an array of learning rates, so that they can be drawn.
"""

from __future__ import annotations

import functools
import math
import operator
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Protocol, SupportsFloat, SupportsIndex, overload

import numpy as np

from fastadam import _hyper
from fastadam._elementary import half_cosine, real_power
from fastadam._hyper import Schedule
from fastadam._types import Array

__all__ = [
    "ReduceOnPlateau",
    "constant",
    "cosine_decay",
    "exponential_decay",
    "join",
    "linear",
    "one_cycle",
    "piecewise_constant",
    "polynomial",
    "warmup_cosine",
]


class Curve(Protocol):
    """What the functions here make: a `Schedule` that takes arrays, too, to be drawn."""

    @overload
    def __call__(self, finished: int, /) -> float: ...
    @overload
    def __call__(self, finished: Array, /) -> Array: ...


def constant(value: float) -> Curve:
    """The same learning rate at every step, for use in `join`.

    Parameters
    ----------
    value : float
        The learning rate.

    Returns
    -------
    callable
        The schedule.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    Examples
    --------
    >>> from fastadam import schedules
    >>> schedule = schedules.constant(0.1)
    >>> schedule(0), schedule(1000)
    (0.1, 0.1)
    """
    return _Schedule(_constant, value=_number("value", value))


def linear(start: float, end: float, steps: SupportsIndex) -> Curve:
    """A straight line from `start` to `end`, up or down: `polynomial` of power 1.

    Parameters
    ----------
    start, end : float
        The learning rates of the first step and after `steps` steps.
    steps : int
        At least 1.

    Returns
    -------
    callable
        The schedule.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    Examples
    --------
    >>> from fastadam import schedules
    >>> schedule = schedules.linear(0.0, 1.0, 4)
    >>> [schedule(finished) for finished in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return polynomial(start, end, steps)


def polynomial(start: float, end: float, steps: SupportsIndex, power: float = 1.0) -> Curve:
    """From `start` to `end`, by a power of the fraction of the steps that is left.

    Parameters
    ----------
    start, end, steps
        As in `linear`.
    power : float, optional
        Above 0. If it is above 1, the learning rate changes fastest at the beginning; if it
        is below 1, at the end.

    Returns
    -------
    callable
        The schedule.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    Notes
    -----
    ::

        left = (steps - min(finished, steps)) / steps
        lr   = end + (start - end) * left**power

    Examples
    --------
    >>> from fastadam import schedules
    >>> schedule = schedules.polynomial(1.0, 0.0, 4, power=2)
    >>> [schedule(finished) for finished in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    return _Schedule(
        _polynomial,
        start=_number("start", start),
        end=_number("end", end),
        steps=_count("steps", steps),
        power=_number("power", power, positive=True),
    )


def exponential_decay(
    start: float,
    rate: float,
    steps: SupportsIndex,
    *,
    staircase: bool = False,
    end: float | None = None,
) -> Curve:
    """Multiply by `rate` every `steps` steps: ``start * rate**(finished / steps)``.

    Parameters
    ----------
    start : float
        The learning rate of the first step.
    rate : float
        Above 0. Above 1 the learning rate grows.
    steps : int
        At least 1.
    staircase : bool, optional
        Change only at every `steps`-th step: the exponent is rounded down.
    end : float, optional
        Where the learning rate stops changing. If `rate` is below 1, it falls no lower than
        this; otherwise it rises no higher.

    Returns
    -------
    callable
        The schedule.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    Examples
    --------
    >>> from fastadam import schedules
    >>> schedule = schedules.exponential_decay(0.8, 0.5, 2, staircase=True, end=0.3)
    >>> [schedule(finished) for finished in range(6)]
    [0.8, 0.8, 0.4, 0.4, 0.3, 0.3]
    """
    return _Schedule(
        _exponential_decay,
        start=_number("start", start),
        rate=_number("rate", rate, positive=True),
        steps=_count("steps", steps),
        staircase=_hyper.flag("staircase", staircase),
        end=None if end is None else _number("end", end),
    )


def piecewise_constant(start: float, scales: Mapping[int, float]) -> Curve:
    """Constant, with jumps after given numbers of steps.

    Parameters
    ----------
    start : float
        The learning rate before the first jump.
    scales : dict of int to float
        The keys are numbers of finished steps, at least 1. From each of them on the learning
        rate is multiplied by the key's value; factors accumulate.

    Returns
    -------
    callable
        The schedule.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    Examples
    --------
    >>> from fastadam import schedules
    >>> schedule = schedules.piecewise_constant(0.8, {2: 0.5, 4: 0.5})
    >>> [schedule(finished) for finished in range(6)]
    [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    """
    if not isinstance(scales, Mapping):
        raise TypeError(
            "scales must be a dict of numbers of finished steps to factors, "
            f"found {type(scales).__name__}"
        )
    checked = {
        _count("a key of scales", boundary): _number(f"scales[{boundary!r}]", scale)
        for boundary, scale in scales.items()
    }
    return _Schedule(
        _piecewise_constant, start=_number("start", start), scales=dict(sorted(checked.items()))
    )


def cosine_decay(start: float, steps: SupportsIndex, *, end: float = 0.0) -> Curve:
    """From `start` to `end` along half a cosine, without restarts.

    Parameters
    ----------
    start : float
        The learning rate of the first step.
    steps : int
        At least 1.
    end : float, optional
        The learning rate after `steps` steps, not a fraction of `start`.

    Returns
    -------
    callable
        The schedule.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    References
    ----------
    Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
    arXiv:1608.03983, equation 5.

    Examples
    --------
    >>> from fastadam import schedules
    >>> schedule = schedules.cosine_decay(1.0, 4)
    >>> [round(schedule(finished), 3) for finished in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    return _Schedule(
        _cosine_decay,
        start=_number("start", start),
        steps=_count("steps", steps),
        end=_number("end", end),
    )


def warmup_cosine(
    start: float,
    peak: float,
    warmup_steps: SupportsIndex,
    steps: SupportsIndex,
    *,
    end: float = 0.0,
) -> Curve:
    """`linear` from `start` up to `peak`, then `cosine_decay` down to `end`.

    Parameters
    ----------
    start, peak, end : float
        The learning rates of the first step, after `warmup_steps` and after `steps` steps.
    warmup_steps : int
        At least 1.
    steps : int
        The number of steps of the whole schedule, more than `warmup_steps`, which it includes.

    Returns
    -------
    callable
        The schedule.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    Examples
    --------
    >>> from fastadam import schedules
    >>> schedule = schedules.warmup_cosine(0.0, 1.0, 2, 6)
    >>> [round(schedule(finished), 3) for finished in range(8)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    peak = _number("peak", peak)
    warmup = _count("warmup_steps", warmup_steps)
    whole = _count("steps", steps, least=warmup + 1)
    return join(
        [linear(start, peak, warmup), cosine_decay(peak, whole - warmup, end=end)], [warmup]
    )


def one_cycle(
    peak: float,
    steps: SupportsIndex,
    *,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Curve:
    """Up to `peak`, then down to nearly nothing: the learning rates of torch's OneCycleLR.

    Parameters
    ----------
    peak : float
        The largest learning rate.
    steps : int
        At least 1. The last of them, with ``steps - 1`` finished, has the final learning rate.
    pct_start : float, optional
        The fraction of the steps in which the learning rate rises, in [0, 1).
    anneal_strategy : {"cos", "linear"}, optional
        Whether it rises and falls along half a cosine or along straight lines.
    div_factor : float, optional
        `peak` divided by the first learning rate.
    final_div_factor : float, optional
        The first learning rate divided by the final one.

    Returns
    -------
    callable
        The schedule.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    References
    ----------
    Smith & Topin, "Super-Convergence: Very Fast Training of Neural Networks Using
    Large Learning Rates", arXiv:1708.07120, with two phases instead of three.

    Examples
    --------
    >>> from fastadam import schedules
    >>> schedule = schedules.one_cycle(1.0, 6, pct_start=0.5, anneal_strategy="linear")
    >>> [round(schedule(finished), 3) for finished in range(7)]
    [0.04, 0.52, 1.0, 0.667, 0.333, 0.0, 0.0]
    """
    return _Schedule(
        _one_cycle,
        peak=_number("peak", peak),
        steps=_count("steps", steps),
        pct_start=_number("pct_start", pct_start, below=1.0),
        anneal_strategy=_one_of("anneal_strategy", anneal_strategy, ("cos", "linear")),
        div_factor=_number("div_factor", div_factor, positive=True),
        final_div_factor=_number("final_div_factor", final_div_factor, positive=True),
    )


def join(schedules: Sequence[Schedule], boundaries: Sequence[SupportsIndex]) -> Curve:
    """One schedule after the other, each counting steps from where it begins.

    Parameters
    ----------
    schedules : list of callable
        Functions of a number of finished steps, from here or your own.
    boundaries : list of int
        For each schedule but the first, after how many steps it begins: at least 1, and
        increasing.

    Returns
    -------
    callable
        The schedule. It can be pickled if `schedules` can.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    Examples
    --------
    >>> from fastadam import schedules
    >>> warmup, rest = schedules.linear(0.0, 1.0, 2), schedules.exponential_decay(1.0, 0.5, 1)
    >>> schedule = schedules.join([warmup, rest], [2])
    >>> [schedule(finished) for finished in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.25, 0.125]
    """
    schedules = _tuple("schedules", schedules)
    boundaries = _tuple("boundaries", boundaries)
    for i, schedule in enumerate(schedules):
        if not callable(schedule):
            raise TypeError(
                f"schedules[{i}] must be a function of the number of finished steps, "
                f"found {type(schedule).__name__}"
            )
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            "schedules must be one more than boundaries, "
            f"found {len(schedules)} schedules and {len(boundaries)} boundaries"
        )
    counts: list[int] = []
    for i, boundary in enumerate(boundaries):
        least = counts[-1] + 1 if counts else 1
        counts.append(_count(f"boundaries[{i}]", boundary, least))
    return _Schedule(_join, schedules=schedules, boundaries=tuple(counts))


@dataclass(eq=False)
class ReduceOnPlateau:
    """A learning rate that is reduced when a metric stops improving.

    It does what ``torch.optim.lr_scheduler.ReduceLROnPlateau`` does: call `update` with
    the metric now and then, such as after every epoch. As an optimizer's ``lr`` it gives
    the same learning rate until then, whatever the number of finished steps.

    Parameters
    ----------
    lr : float
        The learning rate to begin with.
    mode : {"min", "max"}, optional
        Whether a smaller or a larger metric is better.
    factor : float, optional
        What the learning rate is multiplied by, in [0, 1).
    patience : int, optional
        How many updates in a row may bring no improvement before one more reduces it.
    threshold : float, optional
        By how much a metric must be better than the best one to count as an improvement.
    threshold_mode : {"rel", "abs"}, optional
        Whether `threshold` is a fraction of the best metric, which should be positive
        then, or a difference.
    cooldown : int, optional
        How many updates after a reduction are not counted against `patience`.
    min_lr : float, optional
        The learning rate is never reduced below this.
    eps : float, optional
        A reduction by no more than this is left out.

    Attributes
    ----------
    lr : float
        The learning rate now.
    best : float
        The best metric so far, an infinity before the first.
    bad_updates : int
        How many updates in a row have brought no improvement.
    cooldown_left : int
        How many updates the cooldown will go on for.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.

    Notes
    -----
    Pickles and deep copies of an optimizer take the object along; its `state_dict`
    refers to it, as to any function. If it is the learning rate itself, or a part of a `join`,
    and not within a function of yours, then `Adam.save` writes its four attributes, and
    `Adam.load` puts them into the object that the optimizer has in its place.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> from fastadam import schedules
    >>> plateau = schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1)
    >>> opt = fastadam.Adam(np.ones(3), lr=plateau)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     opt.step(np.ones(3))
    ...     plateau.update(loss)
    >>> plateau.lr
    0.05
    """

    lr: float
    _: KW_ONLY
    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    best: float = field(init=False)
    bad_updates: int = field(init=False, default=0)
    cooldown_left: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.lr = _number("lr", self.lr)
        _one_of("mode", self.mode, ("min", "max"))
        self.factor = _number("factor", self.factor, below=1.0)
        self.patience = _count("patience", self.patience, least=0)
        self.threshold = _number("threshold", self.threshold)
        _one_of("threshold_mode", self.threshold_mode, ("rel", "abs"))
        self.cooldown = _count("cooldown", self.cooldown, least=0)
        self.min_lr = _number("min_lr", self.min_lr)
        self.eps = _number("eps", self.eps)
        self.best = math.inf if self.mode == "min" else -math.inf

    def __call__(self, finished: Any) -> Any:
        """The learning rate now; the number of finished steps does not matter."""
        return np.full(finished.shape, self.lr) if isinstance(finished, np.ndarray) else self.lr

    def state_dict(self) -> dict[str, Any]:
        """The attributes that `update` changes.

        Returns
        -------
        dict
            ``lr``, ``best``, ``bad_updates`` and ``cooldown_left``.

        Examples
        --------
        >>> from fastadam import schedules
        >>> plateau = schedules.ReduceOnPlateau(0.1)
        >>> plateau.update(2.0)
        >>> plateau.state_dict()
        {'lr': 0.1, 'best': 2.0, 'bad_updates': 0, 'cooldown_left': 0}
        """
        return {
            "lr": float(self.lr),
            "best": float(self.best),
            "bad_updates": int(self.bad_updates),
            "cooldown_left": int(self.cooldown_left),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Parameters
        ----------
        state_dict : dict

        Raises
        ------
        TypeError, ValueError
            It does not fit; nothing was changed.

        Examples
        --------
        >>> from fastadam import schedules
        >>> plateau, other = schedules.ReduceOnPlateau(0.1), schedules.ReduceOnPlateau(0.3)
        >>> other.load_state_dict(plateau.state_dict())
        >>> other.lr
        0.1
        """
        self._change(state_dict)()

    def _change(self, state_dict: Any) -> Callable[[], object]:
        """The call of C that takes over a state dict, which is checked."""
        names = self.state_dict().keys()
        if not isinstance(state_dict, Mapping) or state_dict.keys() != names:
            raise ValueError(
                f"a ReduceOnPlateau's state has {', '.join(names)}, found {state_dict!r:.100}"
            )
        best = state_dict["best"]
        if not isinstance(best, SupportsFloat):
            raise TypeError(f"best must be a number, found {best!r}")
        checked = {
            "lr": _number("lr", state_dict["lr"]),
            "best": float(best),
            "bad_updates": _count("bad_updates", state_dict["bad_updates"], least=0),
            "cooldown_left": _count("cooldown_left", state_dict["cooldown_left"], least=0),
        }
        return functools.partial(vars(self).update, checked)

    def update(self, metric: SupportsFloat) -> None:
        """Look at a new value of the metric, and perhaps reduce the learning rate.

        Parameters
        ----------
        metric : float
            Its new value. A NaN is no improvement.

        Examples
        --------
        >>> from fastadam import schedules
        >>> plateau = schedules.ReduceOnPlateau(0.1, mode="max", factor=0.5, patience=0)
        >>> for accuracy in (0.8, 0.9, 0.7):
        ...     plateau.update(accuracy)
        >>> plateau.lr, plateau.best
        (0.05, 0.9)
        """
        value = float(metric)
        if self._is_better(value):
            self.best = value
            self.bad_updates = 0
        else:
            self.bad_updates += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.bad_updates = 0
        if self.bad_updates > self.patience:
            self.cooldown_left = self.cooldown
            self.bad_updates = 0
            reduced = max(self.lr * self.factor, self.min_lr)
            if self.lr - reduced > self.eps:
                self.lr = reduced

    def _is_better(self, value: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        if self.threshold_mode == "rel":
            bar = self.best * (1.0 + sign * self.threshold)
        else:
            bar = self.best + sign * self.threshold
        return sign * value > sign * bar


def state_of(schedule: Any) -> Any:
    """What a learning rate remembers from step to step, in what JSON has; None if nothing.

    Of the functions, that is a ReduceOnPlateau, alone or in a `join`.
    """
    if isinstance(schedule, ReduceOnPlateau):
        return schedule.state_dict()
    if isinstance(schedule, _Schedule):
        states = [state_of(part) for part in schedule.keywords.get("schedules", ())]
        return states if any(states) else None
    return None


def changes(schedule: Any, state: Any) -> list[Callable[[], object]]:
    """The calls of C that give a learning rate what `state_of` gave, once that is checked."""
    if isinstance(schedule, ReduceOnPlateau) and isinstance(state, dict):
        return [schedule._change(state)]
    parts = schedule.keywords.get("schedules", ()) if isinstance(schedule, _Schedule) else ()
    if isinstance(state, list) and len(state) == len(parts):
        return [call for pair in zip(parts, state, strict=True) for call in changes(*pair)]
    if state is None and state_of(schedule) is None:
        return []
    saved = f"it remembers {state!r:.100}" if state else "it was saved without a ReduceOnPlateau"
    raise ValueError(f"{saved}, which the optimizer's {schedule!r:.60} cannot take over")


class _Schedule(functools.partial[float]):
    """A function below with all its arguments but the first; prints as the call above."""

    def __call__(self, finished: Any) -> Any:
        if isinstance(finished, np.ndarray):
            whole = map(super().__call__, finished.ravel().tolist())
            return np.fromiter(whole, np.float64, finished.size).reshape(finished.shape)
        return super().__call__(finished)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.keywords.items())
        return f"{self.func.__name__.removeprefix('_')}({arguments})"


def _constant(finished: int, value: float) -> float:
    return value


def _polynomial(finished: int, start: float, end: float, steps: int, power: float) -> float:
    return _between(start, end, real_power(_left(finished, steps), power))


def _exponential_decay(
    finished: int, start: float, rate: float, steps: int, staircase: bool, end: float | None
) -> float:
    factor = real_power(rate, float(finished // steps if staircase else finished / steps))
    lr = start * factor if start else 0.0
    if end is None:
        return lr
    return max(lr, end) if rate < 1.0 else min(lr, end)


def _piecewise_constant(finished: int, start: float, scales: dict[int, float]) -> float:
    return math.prod((scale for at, scale in scales.items() if at <= finished), start=start)


def _cosine_decay(finished: int, start: float, steps: int, end: float) -> float:
    return _between(start, end, half_cosine(_left(finished, steps)))


def _one_cycle(
    finished: int,
    peak: float,
    steps: int,
    pct_start: float,
    anneal_strategy: str,
    div_factor: float,
    final_div_factor: float,
) -> float:
    first = peak / div_factor
    last_step = steps - 1
    peak_step = pct_start * steps - 1  # torch's, seldom a whole number
    if finished < peak_step:
        start, end, left = first, peak, 1.0 - finished / peak_step
    else:
        start, end = peak, first / final_div_factor
        left = max(last_step - finished, 0) / (last_step - peak_step)
    return _between(start, end, half_cosine(left) if anneal_strategy == "cos" else left)


def _join(finished: int, schedules: tuple[Schedule, ...], boundaries: tuple[int, ...]) -> float:
    i = bisect_right(boundaries, finished)
    return schedules[i](finished - boundaries[i - 1] if i else finished)


def _left(finished: int, steps: int) -> float:
    """Which part of the steps is left."""
    return float(max(steps - finished, 0) / steps)


def _between(start: float, end: float, left: float) -> float:
    """Exact at both ends, and rounding makes nothing negative, as a difference could."""
    return start * left + end * (1.0 - left)


def _number(name: str, value: Any, *, positive: bool = False, below: float = math.inf) -> float:
    number = _hyper.real(name, value)
    if not 0.0 <= number < below or (positive and number == 0.0):
        least = "above" if positive else "at least"
        most = "finite" if below == math.inf else f"below {below}"
        raise ValueError(f"{name} must be {least} 0 and {most}, found {number}")
    return number


def _count(name: str, value: Any, least: int = 1) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        is_whole = isinstance(value, float) and value.is_integer()
        hint = f"; write int({value!r})" if is_whole else ""
        raise TypeError(f"{name} must be an integer, found {type(value).__name__}{hint}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, found {count}")
    return count


def _tuple(name: str, values: Any) -> tuple[Any, ...]:
    try:
        return tuple(values)
    except TypeError:
        raise TypeError(f"{name} must be a list, found {type(values).__name__}") from None


def _one_of(name: str, value: str, allowed: tuple[str, str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} must be {allowed[0]!r} or {allowed[1]!r}, found {value!r}")
    return value
