"""Checkpoints: a header of plain JSON, and named arrays.

The header, which `_files` stores beside the arrays, has these entries:

``fastadam``
    The version of the package that wrote it.
``optimizer``
    The name of the optimizer's class.
``state``
    A list with an object for each array of the parameters, in their order: ``key``, and the
    numbers of the state dict's entry, such as ``step``. ``arrays`` has the names under which the
    entry's arrays are stored: those of ``layers.0.W`` are called ``layers.0.W.exp_avg`` and so
    on, and the parameter itself, if it is in the file, ``layers.0.W``. (Where two arrays would
    have the same name, ``layers.0.W`` is replaced by the entry's index.)
``param_groups``
    The state dict's groups. ``lr`` is ``<function>`` where it was one.
``schedules``
    For each group what its learning rate remembers, as `schedules.state_of` gives it.
``rng``
    The states of the user's random generators, as `_generators.state_of` gives them.

A parameter's ``key``, here and in the ``params`` of a group, is written as Python writes it, so
that ``0`` and ``'0'`` are two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam import _generators, schedules
from fastadam._files import ABSENT, expect
from fastadam._hyper import Group
from fastadam._types import Array
from fastadam._version import __version__

SCHEDULE = "<function>"  # stands for a learning rate that is a function
PARAM = "param"  # what an entry's `arrays` calls the parameter


def pack(
    optimizer: str,
    state_dict: Mapping[str, Any],
    params: Sequence[Array] | None,
    rng: Sequence[Any],
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header and the arrays, not copied, that stand for an optimizer.

    Parameters
    ----------
    optimizer : str
        Its class.
    state_dict : dict
    params : sequence of ndarray, optional
        The parameters, if they belong into the file.
    rng : sequence
        Random generators.

    Raises
    ------
    TypeError
        JSON has no form for a key or for a value of a group.
    """
    entries, parts = [], []
    for i, (key, entry) in enumerate(state_dict["state"].items()):
        found = {PARAM: params[i]} if params is not None else {}
        found |= {name: value for name, value in entry.items() if isinstance(value, np.ndarray)}
        parts.append(found)
        numbers = {name: value for name, value in entry.items() if name not in found}
        entries.append({"key": _text(key), **numbers})
    names = _names(list(state_dict["state"]), parts)
    for entry, own in zip(entries, names, strict=True):
        entry["arrays"] = own
    groups = state_dict["param_groups"]
    header = {
        "fastadam": __version__,
        "optimizer": optimizer,
        "state": entries,
        "param_groups": [_plain_group(group) for group in groups],
        "schedules": [schedules.state_of(group["lr"]) for group in groups],
        "rng": list(map(_generators.state_of, rng)),
    }
    pairs = zip(names, parts, strict=True)
    return header, {own[part]: found[part] for own, found in pairs for part in found}


def _names(keys: Sequence[Any], parts: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each key the names under which its arrays are stored, all different."""

    def named(roots: Sequence[str]) -> list[dict[str, str]]:
        return [
            {part: root if part == PARAM else f"{root}.{part}" for part in found}
            for root, found in zip(roots, parts, strict=True)
        ]

    names = named([str(key) for key in keys])
    flat = [name for own in names for name in own.values()]
    # Of the two last, safetensors files take neither.
    if len(set(flat)) < len(flat) or "__metadata__" in flat or not all(map(_is_utf8, flat)):
        return named([f"{i}" for i in range(len(keys))])
    return names


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


class Unpacked(NamedTuple):
    """What a checkpoint says."""

    state_dict: dict[str, Any]
    params: list[Array] | None  # in the order of `keys`, if the file has them
    changes: list[Callable[[], object]]  # calls of C that restore learning rates and generators


def unpack(
    header: Mapping[str, Any],
    arrays: Mapping[str, Array],
    optimizer: str,
    keys: Sequence[Any],
    groups: Sequence[Group],
    rng: Sequence[Any] | None,
) -> Unpacked:
    """Check what a header and arrays stand for; nothing is changed yet.

    Parameters
    ----------
    header, arrays : dict
        From a file, whose JSON may hold anything.
    optimizer : str
        The class that is to load it.
    keys : sequence
        The keys of that optimizer's parameters.
    groups : sequence of dict
        Its param groups, from which functions for learning rates come.
    rng : sequence, optional
        The random generators that are to get what the file has; an empty one leaves that alone.

    Raises
    ------
    ValueError
        These are not what `pack` makes, or of another class of optimizer, or a learning rate is
        of another kind, or there are not as many generators.
    KeyError
        These are other parameters.
    TypeError
        One of `keys` is of a kind that `pack` cannot write, or a generator of one that we do not
        know.
    """
    name = expect("optimizer", header.get("optimizer", ABSENT), str)
    if name != optimizer:
        raise ValueError(f"state of {name}, expected {optimizer}")
    known = {_text(key): key for key in keys}
    entries = expect("state", header.get("state", ABSENT), list)
    state: dict[Any, dict[str, Any]] = {}
    params: dict[Any, Array] = {}
    left = dict(arrays)
    for i, entry in enumerate(entries):
        label = f"state[{i}]"
        expect(label, entry, dict)
        text = expect(f"{label}.key", entry.get("key", ABSENT), str)
        if text not in known:
            raise KeyError(f"it has a parameter {text:.60}, and the optimizer has none of that key")
        key = known[text]
        if key in state:
            raise ValueError(f"damaged (state has the key {text} twice)")
        state[key] = {name: value for name, value in entry.items() if name not in ("key", "arrays")}
        own = expect(f"{label}.arrays", entry.get("arrays", ABSENT), dict)
        for part, stored in own.items():
            expect(f"{label}.arrays.{part}", stored, str)
            if stored not in left:
                raise ValueError(f"damaged (the array {stored!r} of {label} is not there)")
            if part in state[key]:
                raise ValueError(f"damaged ({label} has {part!r} twice)")
            state[key][part] = left.pop(stored)
        if PARAM in own:
            params[key] = state[key].pop(PARAM)
    if left:
        raise ValueError(f"damaged (the array {min(left)!r} belongs to nothing)")
    missing = [text for text, key in known.items() if key not in state]
    if missing:
        raise KeyError(f"it has no parameter {missing[0]}, which the optimizer has")
    if params and len(params) < len(state):
        raise ValueError(f"damaged ({len(params)} parameters for {len(state)} entries of state)")
    saved = expect("param_groups", header.get("param_groups", ABSENT), list)
    loaded = [_group(i, group, known, groups) for i, group in enumerate(saved)]
    changes = _schedule_changes(header, groups) + _generator_changes(header, rng)
    return Unpacked(
        {"state": state, "param_groups": loaded},
        [params[key] for key in keys] if params else None,
        changes,
    )


def _schedule_changes(
    header: Mapping[str, Any], groups: Sequence[Group]
) -> list[Callable[[], object]]:
    states = expect("schedules", header.get("schedules", ABSENT), list)
    if len(states) != len(groups):
        raise ValueError(f"damaged ({len(states)} schedules for {len(groups)} param groups)")
    calls = []
    for i, (group, state) in enumerate(zip(groups, states, strict=True)):
        try:
            calls += schedules.changes(group["lr"], state)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the learning rate of param_groups[{i}]: {error}") from None
    return calls


def _generator_changes(
    header: Mapping[str, Any], rng: Sequence[Any] | None
) -> list[Callable[[], object]]:
    states = expect("rng", header.get("rng", ABSENT), list)
    if rng is not None and not len(rng):
        return []
    if len(rng or ()) != len(states):
        raise ValueError(
            f"it has the states of {len(states)} random generators, and rng has {len(rng or ())}; "
            "rng=[] leaves them out"
        )
    return [
        _generators.change(f"rng[{i}]", generator, state)
        for i, (generator, state) in enumerate(zip(rng or (), states, strict=True))
    ]


def _plain_group(group: Mapping[str, Any]) -> dict[str, Any]:
    plain = {**group, "params": list(map(_text, group["params"]))}
    if callable(plain["lr"]):
        plain["lr"] = SCHEDULE
    for key, value in plain.items():
        try:
            same = json.loads(json.dumps({key: value})) == {key: _lists(value)}
        except (TypeError, ValueError):
            same = False
        if not same:
            raise TypeError(f"param group: {key!r} cannot be saved: JSON has no form for {value!r}")
    return plain


def _lists(value: Any) -> Any:
    """The value with lists in place of tuples, as they come back from JSON."""
    return list(map(_lists, value)) if isinstance(value, tuple | list) else value


def _text(key: Any) -> str:
    """A parameter's key as text that no other key has."""
    if isinstance(key, tuple):
        return f"({', '.join(map(_text, key))})"
    if key is None or isinstance(key, bool):
        return repr(key)
    for kind in (str, int, float, bytes):  # NumPy's and other subclasses print otherwise
        if isinstance(key, kind):
            return repr(kind(key))  # type: ignore[arg-type]
    raise TypeError(f"the key {key!r} of a parameter cannot be saved; use a string or a number")


def _group(
    i: int, group: Any, known: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A saved group with the optimizer's keys and, where it had one, its function for lr."""
    label = f"param_groups[{i}]"
    expect(label, group, dict)
    texts = expect(f"{label}.params", group.get("params", ABSENT), list)
    params = [expect(f"{label}.params[{j}]", text, str) for j, text in enumerate(texts)]
    taken = {**group, "params": [known.get(text, text) for text in params]}
    if i < len(groups):
        was, now = taken.get("lr") == SCHEDULE, groups[i].get("lr")
        if was != callable(now):
            saved, own = ("a function", "a number") if was else (taken.get("lr"), "a function")
            kind = "a function" if was else "a number"
            raise ValueError(
                f"{label} was saved with {saved} as its learning rate, and the optimizer's is "
                f"{own}; set its 'lr' to {kind} before load, and to what you want afterwards"
            )
        taken["lr"] = now if was else taken.get("lr")
    return taken
