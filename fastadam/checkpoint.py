"""Checkpoints: an optimizer's state dict in one file; `_files` has the formats."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastadam import _files
from fastadam._version import __version__

if TYPE_CHECKING:
    from fastadam.optimizer import Optimizer

SCHEDULE = "<function>"  # stands for a learning rate that is a function


def save(optimizer: Optimizer, path: str | os.PathLike[str]) -> None:
    """Write an optimizer's state; see `Optimizer.save`."""
    with optimizer._lock, optimizer._reading():
        optimizer._batch.arrays.check_groups(optimizer.param_groups)
        saved = optimizer._saved()
        arrays: dict[str, Any] = {}
        entries = []
        for i, (key, entry) in enumerate(saved["state"].items()):
            numbers = {"key": _text(key)}
            for name, value in entry.items():
                if isinstance(value, np.ndarray):
                    arrays[f"{i}.{name}"] = value
                else:
                    numbers[name] = value
            entries.append(numbers)
        header = {
            "fastadam": __version__,
            "optimizer": type(optimizer).__name__,
            "state": entries,
            "param_groups": [_plain_group(group) for group in saved["param_groups"]],
        }
        _files.write(path, header, arrays)


def load(optimizer: Optimizer, path: str | os.PathLike[str]) -> None:
    """Read an optimizer's state; see `Optimizer.load`."""
    header, arrays = _files.read(path)
    try:
        name = header["optimizer"]
        if name != type(optimizer).__name__:
            raise ValueError(f"state of {name}, expected {type(optimizer).__name__}")
        keys = {_text(leaf.key): leaf.key for leaf in optimizer._leaves}
        entries = [dict(numbers) for numbers in header["state"]]
        for array_name, array in arrays.items():
            number, kind = array_name.split(".", 1)
            entries[int(number)][kind] = array
        state = {_key(entry.pop("key"), keys): entry for entry in entries}
        groups = [dict(group) for group in header["param_groups"]]
        for i, group in enumerate(groups):
            group["params"] = [_key(key, keys) for key in group["params"]]
            _take_schedule(group, optimizer.param_groups, i)
        optimizer._load({"state": state, "param_groups": groups}, adopt=True)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise type(error)(f"{os.fspath(path)}: {error.args[0]}") from error


def _key(text: str, ours: dict[str, Any]) -> Any:
    """The key that was written as this text: one of ours, else an index in a flat list."""
    return ours.get(text, int(text) if text.isdecimal() else text)


def _plain_group(group: dict[str, Any]) -> dict[str, Any]:
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
    """Lists in place of tuples, as they come back from JSON."""
    return list(map(_lists, value)) if isinstance(value, tuple | list) else value


def _text(key: Any) -> str:
    """A key of the parameters as text that no other key has."""
    if isinstance(key, tuple):
        return f"({', '.join(map(_text, key))})"
    if key is None or isinstance(key, bool):
        return repr(key)
    for kind in (str, int, float, bytes):  # NumPy's and other subclasses print otherwise
        if isinstance(key, kind):
            return repr(kind(key))  # type: ignore[arg-type]
    raise TypeError(f"the key {key!r} of a parameter cannot be saved; use a string or a number")


def _take_schedule(group: dict[str, Any], ours: list[dict[str, Any]], i: int) -> None:
    if group["lr"] != SCHEDULE or i >= len(ours):
        return
    if not callable(ours[i]["lr"]):
        raise ValueError(
            f"param_groups[{i}] was saved with a function as its learning rate; give the "
            "optimizer one before it loads"
        )
    group["lr"] = ours[i]["lr"]
