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
    with optimizer._lock:
        saved = optimizer._saved()
        arrays: dict[str, Any] = {}
        entries = []
        for i, (key, entry) in enumerate(saved["state"].items()):
            numbers = {"key": repr(key)}
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
        keys = {repr(leaf.key): leaf.key for leaf in optimizer._leaves}
        entries = [dict(numbers) for numbers in header["state"]]
        for array_name, array in arrays.items():
            i, state = array_name.split(".", 1)
            entries[int(i)][state] = array
        state = {_key(entry.pop("key"), keys): entry for entry in entries}
        groups = [dict(group) for group in header["param_groups"]]
        for i, group in enumerate(groups):
            group["params"] = [_key(key, keys) for key in group["params"]]
            _take_schedule(group, optimizer.param_groups, i)
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (KeyError, TypeError, ValueError) as error:
        raise type(error)(f"{os.fspath(path)}: {error.args[0]}") from error


def _key(text: str, ours: dict[str, Any]) -> Any:
    """The key that was written as this text: one of ours, else an index in a flat list."""
    return ours.get(text, int(text) if text.isdecimal() else text)


def _plain_group(group: dict[str, Any]) -> dict[str, Any]:
    plain = {**group, "params": list(map(repr, group["params"]))}
    if callable(plain["lr"]):
        plain["lr"] = SCHEDULE
    for key, value in plain.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"param group: {key!r} cannot be saved: {error}") from None
    return plain


def _take_schedule(group: dict[str, Any], ours: list[dict[str, Any]], i: int) -> None:
    if group["lr"] != SCHEDULE or i >= len(ours):
        return
    if not callable(ours[i]["lr"]):
        raise ValueError(
            f"param_groups[{i}] was saved with a function as its learning rate; give the "
            "optimizer one before it loads"
        )
    group["lr"] = ours[i]["lr"]
