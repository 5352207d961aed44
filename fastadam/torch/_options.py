"""The options of torch's param groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastadam import _hyper
from fastadam._rules import Rule
from fastadam._state import check_is_corrected, untensored
from fastadam.torch._memory import HALF

#: The options that all classes of torch lack, as they are where a pickle does not have them.
STORAGE: dict[str, Any] = {"state_dtype": None, "seed": 0}

STEPPED_IN_FLOAT32 = (torch.float32, torch.complex64, *HALF)


def name_of(group: int, place: int) -> str:
    """What messages call a parameter."""
    return f"param_groups[{group}]['params'][{place}]"


def refuse(options: Any) -> None:
    for key in ("capturable", "differentiable"):
        if options.get(key):
            raise RuntimeError(
                f"`fastadam` does not support `{key}`; in a state dict, set it to False"
            )
    check_is_corrected(options)
    if callable(options.get("lr")):
        raise TypeError(
            "lr is a function; with torch, use torch.optim.lr_scheduler (LambdaLR takes a function)"
        )


def read_group(group: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options of a param group as the core takes them: numbers in place of tensors."""
    refuse(group)
    options = {name: untensored(group[name]) for name in names}
    options["lr"] = _hyper.check_lr(options["lr"])
    _hyper.check_mode(options)
    return options


def check_options(options: dict[str, Any], rule: Rule, float32: bool = False) -> dict[str, Any]:
    """Check a rule's options, of which torch's classes check but some, and only as defaults."""
    refuse(options)
    values = {key: untensored(value) for key, value in options.items() if key in rule.options}
    return _hyper.checked(values, _hyper.Traits(rule.options, float32))


def check_group(group: dict[str, Any], number: int, rule: Rule) -> dict[str, Any]:
    """Check a param group's options, also that its parameters can be stepped with them."""
    params = [(place, p) for place, p in enumerate(group["params"]) if p.requires_grad]
    float32 = any(param.dtype in STEPPED_IN_FLOAT32 for _, param in params)
    options = check_options(group, rule, float32)
    for place, param in params:
        check_can_be_stored(name_of(number, place), param, group["state_dtype"])
    return options


def check_can_be_stored(name: str, param: torch.Tensor, state_dtype: str | None) -> None:
    if state_dtype is not None and param.dtype in (torch.float64, torch.complex128):
        raise ValueError(
            f"{name} is {param.dtype}, and state_dtype={state_dtype!r} is for tensors that are "
            "stepped in float32; put it into a param group with state_dtype=None"
        )
