"""Read a state dict, ours or torch.optim.Adam's, into fresh state."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastadam._arrays import Array, Counts, Slot, check_array, zeros_like
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


def _check_dict(label: str, value: Any, keys: tuple[str, ...] = ()) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{label} must be a dict, found a {type(value).__name__}")
    for key in keys:
        if key not in value:
            raise KeyError(f"{label} lacks the key {key!r}")


def _plain(value: Any) -> Any:
    """A number from torch's 0-d tensors, which lr and betas may be; anything else as it is."""
    if isinstance(value, tuple | list):
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


def _read_slot(label: str, entry: Any, slot: Slot, amsgrad: bool) -> Slot:
    _check_dict(label, entry)
    names = NAMES if amsgrad or NAMES[2] in entry else NAMES[:2]
    if entry and set(entry) != {"step", *names}:
        raise KeyError(
            f"{label} has the keys {sorted(map(str, entry))}, expected {sorted(('step', *names))}"
        )
    state = []
    for number, name in enumerate(names):
        fresh = zeros_like(slot.param, number)
        if entry:
            fresh[...] = check_array(f"{label}[{name!r}]", entry[name], slot.param)
        state.append(fresh)
    return slot._replace(state=tuple(state))


def _read_step(label: str, value: Any) -> int:
    """A step count from an integer, or from torch's 0-d float tensor."""
    try:
        number = value.item() if hasattr(value, "item") else value
        step = operator.index(int(number) if number == int(number) else number)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{label}: expected a whole number, found {value!r}") from None
    if not 0 <= step < 2**62:
        raise ValueError(f"{label}: expected a step count, found {step}")
    return step
