"""State dicts as checkpoint files hold them: a header of plain JSON, and named arrays.

The header, which `_files` stores beside the arrays, has these entries:

``fastadam``
    The version of the package that wrote it.
``optimizer``
    The name of the optimizer's class.
``state``
    A list with an object for each array of the parameters, in their order: ``key``, and the
    numbers of the state dict's entry, such as ``step``. The arrays of the entry ``state[3]``
    are called ``3.exp_avg``, ``3.exp_avg_sq`` and so on.
``param_groups``
    The state dict's groups. ``lr`` is ``<function>`` where it was one.

A parameter's ``key``, here and in the ``params`` of a group, is written as Python writes it, so
that ``0`` and ``'0'`` are two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastadam._files import ABSENT, expect
from fastadam._types import Array
from fastadam._version import __version__

SCHEDULE = "<function>"  # stands for a learning rate that is a function


def pack(state_dict: Mapping[str, Any], optimizer: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header and the arrays, not copied, that stand for an optimizer's state dict.

    Raises
    ------
    TypeError
        JSON has no form for a key or for a value of a group.
    """
    arrays: dict[str, Array] = {}
    entries = []
    for i, (key, entry) in enumerate(state_dict["state"].items()):
        numbers = {"key": _text(key)}
        for name, value in entry.items():
            if isinstance(value, np.ndarray):
                arrays[f"{i}.{name}"] = value
            else:
                numbers[name] = value
        entries.append(numbers)
    header = {
        "fastadam": __version__,
        "optimizer": optimizer,
        "state": entries,
        "param_groups": [_plain_group(group) for group in state_dict["param_groups"]],
    }
    return header, arrays


def unpack(
    header: Mapping[str, Any],
    arrays: Mapping[str, Array],
    optimizer: str,
    keys: Sequence[Any],
    groups: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The state dict that a header and arrays stand for.

    Parameters
    ----------
    header, arrays : dict
        From a file, whose JSON may hold anything.
    optimizer : str
        The class that is to load it.
    keys : sequence
        The keys of that optimizer's parameters. A number below their count is a key, too: the
        index of an array in a flat list.
    groups : sequence of dict
        Its param groups, from which functions for learning rates come.

    Raises
    ------
    ValueError
        These are not what `pack` makes, or of another class of optimizer, or a group whose
        learning rate was a function has none now.
    TypeError
        One of `keys` is of a kind that `pack` cannot write.
    """
    name = expect("optimizer", header.get("optimizer", ABSENT), str)
    if name != optimizer:
        raise ValueError(f"state of {name}, expected {optimizer}")
    known = {str(i): i for i in range(len(keys))} | {_text(key): key for key in keys}
    entries = expect("state", header.get("state", ABSENT), list)
    state: dict[Any, dict[str, Any]] = {}
    for i, entry in enumerate(entries):
        expect(f"state[{i}]", entry, dict)
        text = expect(f"state[{i}].key", entry.get("key", ABSENT), str)
        key = known.get(text, text)
        if key in state:
            raise ValueError(f"damaged (state has the key {text} twice)")
        state[key] = {name: value for name, value in entry.items() if name != "key"}
    places = dict(zip(map(str, range(len(entries))), state.values(), strict=True))
    for name, array in arrays.items():
        number, _, part = name.partition(".")
        if number not in places:
            raise ValueError(
                f"damaged (the array {name!r} belongs to none of the {len(entries)} entries of "
                "state)"
            )
        if part in places[number]:
            raise ValueError(f"damaged (state[{number}] has {part!r} twice)")
        places[number][part] = array
    saved = expect("param_groups", header.get("param_groups", ABSENT), list)
    return {
        "state": state,
        "param_groups": [_group(i, group, known, groups) for i, group in enumerate(saved)],
    }


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
    if taken.get("lr") == SCHEDULE and i < len(groups):
        if not callable(groups[i].get("lr")):
            raise ValueError(
                f"{label} was saved with a function as its learning rate; give the optimizer "
                "one before it loads"
            )
        taken["lr"] = groups[i]["lr"]
    return taken
