"""Read a state dict, ours or of torch.optim's class of that name, into fresh state."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastadam._arrays import Counts, Slot, check_array, lies_as, state_like
from fastadam._hyper import Group
from fastadam._rules import Rule
from fastadam._types import Array

COUNTS = ("finished_steps", "skipped_steps")
AVERAGE = "averaged_param"  # the moving average's name in state dicts


class Leaf(NamedTuple):
    """One array as the user knows it."""

    key: Any  # in state dicts
    suffix: str  # in messages, behind "params" or "grads"
    array: Array
    group: int


class Loaded(NamedTuple):
    slots: list[Slot]
    counts: Counts
    groups: list[Group]


def read_state(
    rule: Rule,
    state_dict: Any,
    leaves: Sequence[Leaf],
    slots: Sequence[Slot],
    groups: Sequence[Group],
    adopt: bool = False,
) -> Loaded:
    """Check a state dict against an optimizer's arrays and copy it.

    With `adopt` its arrays are taken over where they can be.
    """
    _check_dict("a state dict", state_dict, ("state", "param_groups"))
    saved_groups, saved = state_dict["param_groups"], state_dict["state"]
    _check_dict("state dict: state", saved)
    if not isinstance(saved_groups, list | tuple):
        raise TypeError(f"state dict: param_groups is a {type(saved_groups).__name__}, not a list")
    for i, group in enumerate(saved_groups):
        _check_dict(f"state dict: param_groups[{i}]", group, ("params",))
    keys = _match_keys(saved_groups, leaves, len(groups))
    unknown = set(saved) - set(keys)
    if unknown:
        raise KeyError(f"state dict: state of {min(map(repr, unknown))}, which has no parameter")

    merged = [
        {**group, **{k: _plain(v) for k, v in new.items() if k not in ("params", *COUNTS)}}
        for group, new in zip(groups, saved_groups, strict=True)
    ]
    new_slots: list[Slot] = []
    counts = Counts([], [])
    for key, leaf, slot in zip(keys, leaves, slots, strict=True):
        label = f"state dict: state[{key!r}]"
        entry = saved.get(key, {})
        _check_dict(label, entry)
        group = merged[slot.group]
        new_slots.append(_read_slot(rule, label, entry, leaf, slot, group, adopt))
        counts.steps.append(_read_count(rule, label, entry))
        product = entry.get("mu_product", 1.0) if "mu_product" in rule.numbers else 1.0
        counts.mu_products.append(read_product(f"{label}['mu_product']", product))
    finished, skipped = (
        max(read_step(name, group.get(name, 0)) for group in saved_groups) for name in COUNTS
    )
    counts = counts._replace(finished=max(finished, *counts.steps), skipped=skipped)
    return Loaded(new_slots, counts, merged)


def _check_dict(label: str, value: Any, keys: tuple[str, ...] = ()) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{label} must be a dict, found a {type(value).__name__}")
    for key in keys:
        if key not in value:
            raise KeyError(f"{label} lacks the key {key!r}")


def _plain(value: Any) -> Any:
    """A number from torch's 0-d tensors, which lr and betas may be; anything else as it is."""
    if isinstance(value, list):
        return list(map(_plain, value))
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _match_keys(saved_groups: Any, leaves: Sequence[Leaf], n_groups: int) -> list[Any]:
    """For each of our arrays its key in the state dict: the same key, else torch's index."""
    if len(saved_groups) != n_groups:
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved_groups)}, expected {n_groups}"
        )
    saved = [list(group["params"]) for group in saved_groups]
    ours: list[list[Any]] = [[] for _ in range(n_groups)]
    for leaf in leaves:
        ours[leaf.group].append(leaf.key)
    for i, (theirs, mine) in enumerate(zip(saved, ours, strict=True)):
        if len(theirs) != len(mine):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                f"optimizer's group: group {i} has {len(theirs)} parameters, expected {len(mine)}"
            )
    missing = [set(mine) - set(theirs) for theirs, mine in zip(saved, ours, strict=True)]
    if not any(missing):
        return [leaf.key for leaf in leaves]
    flat = [key for group in saved for key in group]
    if flat == list(range(len(leaves))):
        return flat
    key = min(repr(key) for keys in missing for key in keys)
    raise KeyError(f"state dict: no parameter {key}; found {flat}")


def _read_slot(
    rule: Rule,
    label: str,
    entry: Mapping[str, Any],
    leaf: Leaf,
    slot: Slot,
    group: Group,
    adopt: bool,
) -> Slot:
    def read(name: str, number: int) -> Array:
        values = check_array(f"{label}[{name!r}]", entry[name], slot.param)
        if adopt and lies_as(values, slot.param):
            return values
        return state_like(slot.param, number, values)

    needed = {
        name
        for name in rule.states
        if name not in rule.asked or group.get(rule.asked[name]) or entry.get(name) is not None
    }
    if entry:
        expected = {*needed, *rule.numbers, *(name for name in entry if name in ("step", AVERAGE))}
        found = {key for key, value in entry.items() if value is not None}
        if found != expected or ("step" not in found and rule.saves_step):
            raise KeyError(
                f"{label} has the keys {sorted(map(str, found))}, "
                f"expected {sorted({'step', *needed, *rule.numbers})}"
            )
    state: list[Array | None] = []
    for number, name in enumerate(rule.states):
        if name not in needed:
            state.append(None)
        else:
            state.append(read(name, number) if entry else state_like(slot.param, number))
    average = None
    if slot.average is None and entry.get(AVERAGE) is not None:
        raise ValueError(f"{label} has an average of the parameter; set ema_decay to take it over")
    if slot.average is not None and entry.get(AVERAGE) is not None:
        average = read(AVERAGE, len(state))
    elif slot.average is not None:
        average = state_like(slot.param, len(state), leaf.array)
    return slot._replace(state=tuple(state), average=average)


def _read_count(rule: Rule, label: str, entry: Mapping[str, Any]) -> int:
    """The step count; torch.optim.SGD keeps none, and asks only whether it is zero."""
    return read_step(f"{label}['step']", entry.get("step", 1)) if entry else 0


def read_product(label: str, value: Any) -> float:
    try:
        product = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{label}: expected a number, found {value!r}") from None
    except OverflowError:
        product = math.inf
    if not 0.0 <= product <= 1.0:
        raise ValueError(f"{label}: expected a number from 0 to 1, found {product}")
    return product


def read_step(label: str, value: Any) -> int:
    """A step count from an integer, or from torch's 0-d float tensor."""
    try:
        number = value.item() if hasattr(value, "item") else value
        step = operator.index(int(number) if number == int(number) else number)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{label}: expected a whole number, found {value!r}") from None
    if not 0 <= step < 2**62:
        raise ValueError(f"{label}: expected a step count, found {step}")
    return step
