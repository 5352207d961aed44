"""The options of torch's param groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastadam import _hyper
from fastadam._state import untensored

#: The options that torch lacks, as they are where a pickle does not have them.
STORAGE: dict[str, Any] = {"state_dtype": None, "seed": 0}


def name_of(group: int, place: int) -> str:
    """What messages call a parameter."""
    return f"param_groups[{group}]['params'][{place}]"


def refuse(options: Any) -> None:
    for key in ("capturable", "differentiable"):
        if options.get(key):
            raise RuntimeError(f"`fastadam` does not support `{key}`")
    if callable(options.get("lr")):
        raise TypeError(
            "lr is a function; with torch, use torch.optim.lr_scheduler (LambdaLR takes a function)"
        )


def read_group(group: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options of a param group as the core takes them: numbers in place of tensors."""
    refuse(group)
    options = {name: untensored(group[name]) for name in names}
    options["lr"] = _hyper.check_lr(options["lr"])
    return options


def check_storage(group: dict[str, Any], number: int) -> None:
    """Check the options of a param group that say how state is stored."""
    traits = _hyper.Traits(tuple(STORAGE), float32=True)
    for key in STORAGE:
        _hyper.OPTIONS[key](key, group[key], traits)
    for key in _hyper.CONDITIONS.keys() & {"centered"} & group.keys():
        _hyper.CONDITIONS[key](group)
    for place, param in enumerate(group["params"]):
        if param.requires_grad:
            check_can_be_stored(name_of(number, place), param, group["state_dtype"])


def check_can_be_stored(name: str, param: torch.Tensor, state_dtype: str | None) -> None:
    if state_dtype is not None and param.dtype in (torch.float64, torch.complex128):
        raise ValueError(
            f"{name} is {param.dtype}, and state_dtype={state_dtype!r} is for tensors that are "
            "stepped in float32; put it into a param group with state_dtype=None"
        )
