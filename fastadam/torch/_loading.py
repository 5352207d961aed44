"""State dicts of torch's layout: what torch must not cast, and moments stored in other ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastadam import _rules
from fastadam._codecs import INT8, computed_in
from fastadam._others import from_others
from fastadam._quiet import quietly
from fastadam._slots import decoded_state, state_like
from fastadam._state import RESTS, check_layout, check_stored, converted, read_step, rest_name
from fastadam._types import Array
from fastadam.torch._dtensor import local_of, origin_of, spread_like
from fastadam.torch._memory import HALF, array_of, as_bytes, stored_like, tensor_of, torch_dtype
from fastadam.torch._options import STEPPED_IN_FLOAT32, check_group


class _Prepared:
    """A tensor of a state dict that torch must not cast to the parameter's dtype."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def params_of(saved_groups: Any, groups: Any) -> dict[Any, tuple[torch.Tensor, dict[str, Any]]]:
    """For each key in the groups of a state dict the parameter, and the saved group."""
    return {
        key: (param, saved)
        for saved, group in zip(saved_groups, groups, strict=True)
        for key, param in zip(saved["params"], group["params"], strict=True)
    }


def prepare_state(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    """A state dict of which torch leaves as it is what must not be cast; a hook of torch's."""
    check_layout(state_dict)
    state_dict = from_others(optimizer._rule, state_dict)
    groups = [dict(saved) for saved in state_dict["param_groups"]]
    own_groups = optimizer.param_groups
    sizes, own_sizes = ([len(group["params"]) for group in g] for g in (groups, own_groups))
    if sizes != own_sizes:
        return None  # torch says so
    for i, (saved, group) in enumerate(zip(groups, own_groups, strict=True)):
        for key in optimizer._rule.options:
            saved.setdefault(key, group[key])
        saved.update(state_dtype=group["state_dtype"], **optimizer._fixed)
        check_group({**saved, "params": group["params"]}, i, optimizer._rule)
    params = params_of(groups, own_groups)
    state = {
        key: _prepared(optimizer._rule, f"state dict: state[{key!r}]", entry, *params[key])
        if key in params and entry
        else entry
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state, "param_groups": groups}


def _prepared(
    rule: _rules.Rule,
    label: str,
    entry: dict[str, Any],
    param: torch.Tensor,
    group: dict[str, Any],
) -> dict[str, Any]:
    """A parameter's entry in a state dict, stored as the param group says."""
    for name in (*rule.states, *(("step",) if rule.saves_step else ()), *rule.number_names):
        if entry.get(name) is None and name not in rule.asked:
            raise KeyError(f"{label} lacks {name!r}")
    new = {key: value for key, value in entry.items() if key not in RESTS}
    kept: dict[str, Any] = {}
    for name in ("step", *rule.number_names):
        value = entry.get(name)
        if isinstance(value, torch.Tensor):
            kept[name] = value
        elif type(value) in (int, float):  # of which torch would make a float32 tensor
            kept[name] = torch.tensor(value, dtype=torch.float64, device="cpu")
    if _is_stepped_in_float32(param):
        array = array_of(local_of("a parameter", param))
        like, dtype = stored_like(array, group["state_dtype"])
        moments = _tensors_of(entry, rule.states)
        dtypes = dict(zip(rule.states, rule.stored_as(dtype, computed_in(like)), strict=True))
        if any(tensor.dtype != torch_dtype(dtypes[name]) for name, tensor in moments.items()):
            found = _moments(rule, label, entry, like)
            step = read_step(f"{label}['step']", entry.get("step", 1))
            origin = origin_of(param, group["state_dtype"])
            found = converted(rule, found, like, dtype, group["seed"], step, origin)
            moments = {
                name: spread_like(
                    tensor_of(state_like(like, rule.states.index(name), numbers)), param
                )
                for name, numbers in found.items()
            }
        kept.update(moments)
        if param.dtype in HALF:
            rests = _tensors_of(entry, (rest_name(like),))
            kept.update(
                {key: as_bytes(f"{label}[{key!r}]", rest, param) for key, rest in rests.items()}
            )
    new.update({name: _Prepared(tensor.to(param.device)) for name, tensor in kept.items()})
    return new


def unwrapped(state: Any) -> Any:
    """The state that torch made of a state dict, with tensors in place of what was prepared."""
    for entry in state.values():
        if isinstance(entry, dict):
            prepared = {k: value.tensor for k, value in entry.items() if type(value) is _Prepared}
            entry.update(prepared)
    return state


def decoded_entry(
    rule: _rules.Rule, label: str, entry: dict[str, Any], param: torch.Tensor
) -> dict[str, Any]:
    """A parameter's state with moments as numbers, and without what it lacks of a float32."""
    new = {key: value for key, value in entry.items() if key not in RESTS}
    coded = (torch.uint8, torch.bfloat16)
    moments = _tensors_of(entry, rule.states)
    if _is_stepped_in_float32(param) and any(t.dtype in coded for t in moments.values()):
        array = array_of(local_of("a parameter", param))
        found = _moments(rule, label, entry, array)
        stored = [found.get(name) for name in rule.states]
        numbers = quietly(decoded_state, rule, stored, array)
        new.update(
            {
                name: spread_like(torch.from_numpy(number), param)
                for name, number in zip(rule.states, numbers, strict=True)
                if name in moments and moments[name].dtype in coded
            }
        )
    return new


def _tensors_of(entry: dict[str, Any], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Those of these entries that are tensors."""
    return {name: entry[name] for name in names if isinstance(entry.get(name), torch.Tensor)}


def _moments(
    rule: _rules.Rule, label: str, entry: dict[str, Any], param: Array
) -> dict[str, Array]:
    """The moments of an entry, however they are stored, as the core has them."""
    found = {}
    for name, tensor in _tensors_of(entry, rule.states).items():
        label_of_moment = f"{label}[{name!r}]"
        tensor = local_of(label_of_moment, tensor)
        if tensor.dtype in (torch.float16, torch.float64):
            tensor = tensor.float()
        found[name] = check_stored(label_of_moment, array_of(tensor.cpu()), param)
    if len({array.dtype == INT8 for name, array in found.items() if name not in rule.exact}) > 1:
        raise ValueError(f"{label} has moments in 8 bits beside others, which need them, too")
    return found


def _is_stepped_in_float32(param: torch.Tensor) -> bool:
    """Whether a parameter is, so that its state may be stored in fewer bits."""
    return (
        param.dtype in STEPPED_IN_FLOAT32
        and (param.device.type, param.layout) == ("cpu", torch.strided)
        and not (param.is_conj() or param.is_neg())
    )
