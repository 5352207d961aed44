"""Read a state dict, ours or torch.optim.Adam's, into fresh state."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam._arrays import Array, Counts, Slot, check_gradient
from fastadam._hyper import Group

COUNTS = ("finished_steps", "skipped_steps")
NAMES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


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
    state_dict: Any, leaves: Sequence[Leaf], slots: Sequence[Slot], groups: Sequence[Group]
) -> Loaded:
    """Check a state dict against an optimizer's arrays and copy it."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError("a state dict must be a dict with the keys 'state' and 'param_groups'")
    saved_groups, saved = state_dict["param_groups"], state_dict["state"]
    keys = _keys(saved_groups, leaves, len(groups))
    unknown = set(saved) - set(keys)
    if unknown:
        raise KeyError(f"state dict: state of {min(map(repr, unknown))}, which has no parameter")

    merged = [
        {**group, **{k: v for k, v in new.items() if k not in ("params", *COUNTS)}}
        for group, new in zip(groups, saved_groups, strict=True)
    ]
    new_slots, steps = [], []
    for key, slot in zip(keys, slots, strict=True):
        label = f"state dict: state[{key!r}]"
        entry = saved.get(key, {})
        new_slots.append(_read_slot(label, entry, slot, bool(merged[slot.group].get("amsgrad"))))
        steps.append(_read_step(f"{label}['step']", entry["step"]) if entry else 0)
    finished, skipped = (
        max(_read_step(name, group.get(name, 0)) for group in saved_groups) for name in COUNTS
    )
    return Loaded(new_slots, Counts(steps, max(finished, *steps), skipped), merged)


def _keys(saved_groups: Any, leaves: Sequence[Leaf], n_groups: int) -> list[Any]:
    """For each of our arrays its key in the state dict: the same, or torch's index."""
    if len(saved_groups) != n_groups:
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved_groups)}, expected {n_groups}"
        )
    saved = [list(group["params"]) for group in saved_groups]
    ours = [[leaf.key for leaf in leaves if leaf.group == i] for i in range(n_groups)]
    for i, (theirs, mine) in enumerate(zip(saved, ours, strict=True)):
        if len(theirs) != len(mine):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                f"optimizer's group: group {i} has {len(theirs)} parameters, expected {len(mine)}"
            )
    missing = [
        (key, theirs)
        for theirs, mine in zip(saved, ours, strict=True)
        for key in mine
        if key not in theirs
    ]
    if not missing:
        return [leaf.key for leaf in leaves]
    flat = [key for group in saved for key in group]
    if flat == list(range(len(leaves))):
        return flat
    raise KeyError(f"state dict: no parameter {missing[0][0]!r}; found {missing[0][1]}")


def _read_slot(label: str, entry: Any, slot: Slot, amsgrad: bool) -> Slot:
    if not isinstance(entry, Mapping):
        raise TypeError(f"{label} is a {type(entry).__name__}, expected a dict")
    names = NAMES if amsgrad or NAMES[2] in entry else NAMES[:2]
    if entry and set(entry) != {"step", *names}:
        raise KeyError(f"{label} has the keys {sorted(entry)}, expected {sorted(('step', *names))}")
    state = []
    for name in names:
        fresh = np.zeros_like(slot.param)
        if entry:
            fresh[...] = check_gradient(f"{label}[{name!r}]", entry[name], slot.param)
        state.append(fresh)
    return slot._replace(state=tuple(state))


def _read_step(label: str, value: Any) -> int:
    """A step count from an integer, or from torch's 0-d float tensor."""
    try:
        number = value.item() if hasattr(value, "item") else value
        step = operator.index(int(number) if number == int(number) else number)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{label}: expected a whole number, found {value!r}") from None
    if not 0 <= step < 2**63 - 1:
        raise ValueError(f"{label}: expected a step count, found {step}")
    return step
