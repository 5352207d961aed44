"""The states of a user's random generators, as checkpoints hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fastadam._checks import kind
from fastadam._files import expect
from fastadam._quiet import quietly


def state_of(rng: Any) -> dict[str, Any]:
    """A generator's state, in what JSON has."""
    state: dict[str, Any] = _plain(_source(rng)[0]())
    return state


def change(label: str, rng: Any, state: Any) -> Callable[[], object]:
    """A call of C that gives a generator a state, which is checked before."""
    get, _ = _source(rng)
    expect(label, state, dict)
    name, found = get()["bit_generator"], state.get("bit_generator")
    if found != name:
        raise ValueError(f"{label} is the state of a {found}, and rng is a {name}")
    get, put = _source(quietly(_another, rng))  # NumPy sets its error mode meanwhile
    try:
        put(state)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError) as error:
        raise ValueError(f"damaged ({label}: {error!r})") from None
    if _plain(get()) != state:
        raise ValueError(f"damaged ({label} is not a state of a {name})")
    return partial(_source(rng)[1], state)


def _another(rng: Any) -> Any:
    """Another generator of the same kind."""
    if isinstance(rng, np.random.Generator):
        return np.random.Generator(type(rng.bit_generator)(0))
    return np.random.RandomState(0)


def _source(rng: Any) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Functions that get and put a generator's state."""
    if isinstance(rng, np.random.Generator):
        bits = rng.bit_generator
        return partial(getattr, bits, "state"), partial(setattr, bits, "state")
    if isinstance(rng, np.random.RandomState):
        return partial(rng.get_state, legacy=False), rng.set_state
    raise TypeError(
        f"rng is {kind(rng)}; expected a numpy.random.Generator or RandomState, or a list of them"
    )


def as_list(rng: Any) -> list[Any]:
    """The generators that a user passed: one, a list or tuple of them, or None for none."""
    if rng is None:
        return []
    return list(rng) if isinstance(rng, list | tuple) else [rng]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.integer | np.floating):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(map(_plain, value))
    return value
