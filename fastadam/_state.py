"""State dicts, in torch.optim's layout: what is in them, written and read."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastadam import _hyper
from fastadam._arrays import Arrays, Counts
from fastadam._checks import check_is_array, is_stepped_in_float32, kind, name_of
from fastadam._codecs import BFLOAT16, FLOAT16, INT8, REMAINDER, codes_of, computed_in, numbers_of
from fastadam._hyper import Group
from fastadam._others import from_others
from fastadam._quiet import quietly
from fastadam._rules import Number, Rule
from fastadam._slots import (
    Slot,
    decoded_state,
    encoded_state,
    form,
    rest_of,
    state_like,
    stored_as,
)
from fastadam._types import Array

#: Whether an array may be taken over as that state of a parameter, instead of copied.
Adopts: TypeAlias = Callable[[Array, Array, int], bool]
COUNTS = ("finished_steps", "skipped_steps")
#: What an optimizer does not take over from the groups of a state dict as an option.
NOT_TAKEN = ("params", "state_dtype", *COUNTS)
AVERAGE = "averaged_param"  # the moving average's name in state dicts,
RESTS = ("param_remainder", "master_param")  # and those of what bfloat16 and float16 ones lack


def rest_name(param: Array) -> str:
    """What state dicts call that which a plain parameter in half precision lacks of a float32."""
    return RESTS[param.dtype == FLOAT16]


def stream_names(rule: Rule, param: Array) -> list[str]:
    """What state dicts call a plain parameter's state, its average and what it lacks."""
    return [*rule.states, AVERAGE, rest_name(param)]


def write_state(
    arrays: Arrays, counts: Counts, groups: Sequence[Group], decoded: bool = False
) -> dict[str, Any]:
    """A state dict that holds the arrays of the state themselves, or decoded ones."""
    arrays.check_number(groups)
    rule, state = arrays.rule, {}
    for slot, step, numbers in zip(arrays.slots, counts.steps, counts.numbers, strict=True):
        moments: Sequence[Array | None] = slot.state
        if decoded:
            moments = quietly(decoded_state, rule, moments, slot.param)
        rest = None if decoded else slot.rest
        names = stream_names(rule, slot.param)
        named = dict(zip(names, [*moments, slot.average, rest], strict=True))
        state[slot.key] = {
            "step": step,
            **{name: number for name, number in zip(rule.number_names, numbers, strict=True)},
            **{name: array for name, array in named.items() if array is not None},
        }
    saved_groups = []
    for group, traits, keys in zip(groups, arrays.traits, _keys_of_groups(arrays), strict=True):
        saved = _hyper.plain(group, traits)
        saved.pop("params", None)
        saved.update(finished_steps=counts.finished, skipped_steps=counts.skipped, params=keys)
        saved_groups.append(saved)
    return {"state": state, "param_groups": saved_groups}


def copied(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with copies of its arrays."""
    for entry in state_dict["state"].values():
        for name, value in entry.items():
            if isinstance(value, np.ndarray):
                entry[name] = value.copy(order="K")
    return state_dict


def _keys_of_groups(arrays: Arrays) -> list[list[Any]]:
    keys: list[list[Any]] = [[] for _ in arrays.traits]
    for slot in arrays.slots:
        keys[slot.group].append(slot.key)
    return keys


class Loaded(NamedTuple):
    """What a state dict says, for an optimizer of which nothing was changed yet."""

    slots: list[Slot]
    counts: Counts
    groups: list[Group]


def read_state(
    arrays: Arrays,
    state_dict: Any,
    groups: Sequence[Group],
    fixed: Group,
    adopts: Adopts | None = None,
    params: Sequence[Array] | None = None,
) -> Loaded:
    """Check a state dict against an optimizer's arrays and copy it.

    Parameters
    ----------
    arrays : Arrays
        The optimizer's.
    state_dict : dict
        Ours, or of torch.optim's class of that name.
    groups : list of dict
        The optimizer's, for what the state dict's groups lack.
    fixed : dict
        Options that the state dict does not change.
    adopts : callable, optional
        Says whether an array of it may be taken over instead of copied: of the array, the plain
        parameter, and the number that the array has among those that go with it.
    params : sequence of ndarray, optional
        What the parameters will be, if not what they are.
    """
    rule, slots = arrays.rule, arrays.slots
    if params is None:
        params = [slot.user for slot in slots]
    check_layout(state_dict)
    state_dict = from_others(rule, state_dict)
    saved_groups, saved = state_dict["param_groups"], state_dict["state"]
    arrays.check_number(groups)
    keys = _match_keys(saved_groups, arrays)
    unknown = set(saved) - set(keys)
    if unknown:
        raise KeyError(f"state dict: state of {min(map(repr, unknown))}, which has no parameter")

    merged, changes = [], []
    for group, new, traits in zip(groups, saved_groups, arrays.traits, strict=True):
        _hyper.check_params(group, traits)
        check_is_corrected(new)
        taken = {k: untensored(v) for k, v in new.items() if k not in NOT_TAKEN}
        whole = {**group, **taken, **fixed}
        # State that the options ask for and that was not made yet will be made here.
        checked = _hyper.checked(whole, traits._replace(lacking=()))
        merged.append({**whole, **checked})
        changes.append({**taken, **fixed, **checked})
    new_slots: list[Slot] = []
    counts = Counts([], [])
    for key, slot, first in zip(keys, slots, params, strict=True):
        label = f"state dict: state[{key!r}]"
        entry = saved.get(key, {})
        new_slots.append(_read_slot(rule, label, entry, slot, merged[slot.group], adopts, first))
        counts.steps.append(_read_count(rule, label, entry))
        counts.numbers.append(
            tuple(
                read_number(
                    f"{label}[{number.name!r}]", entry.get(number.name, number.first), number
                )
                for number in rule.numbers
            )
        )
    finished, skipped = (
        max(read_step(name, group.get(name, 0)) for group in saved_groups) for name in COUNTS
    )
    counts = counts._replace(finished=max(finished, *counts.steps), skipped=skipped)
    return Loaded(new_slots, counts, changes)


def check_is_corrected(group: Mapping[str, Any]) -> None:
    """Refuse what DeepSpeed's CPUAdam may save: a group without bias correction."""
    if group.get("bias_correction") is False:
        raise ValueError(
            "bias_correction=False, which fastadam does not have; it always corrects the moments"
        )


def check_layout(state_dict: Any) -> None:
    """Check that a state dict has groups with parameters, and only dicts as their state."""
    _check_dict("a state dict", state_dict, ("state", "param_groups"))
    groups, state = state_dict["param_groups"], state_dict["state"]
    _check_dict("state dict: state", state)
    if not isinstance(groups, list | tuple):
        raise TypeError(f"state dict: param_groups is {kind(groups)}, not a list")
    for i, group in enumerate(groups):
        _check_dict(f"state dict: param_groups[{i}]", group, ("params",))
        for key in group["params"]:
            _check_dict(f"state dict: state[{key!r}]", state.get(key, {}))


def _check_dict(label: str, value: Any, keys: tuple[str, ...] = ()) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{label} must be a dict, found {kind(value)}")
    for key in keys:
        if key not in value:
            raise KeyError(f"{label} lacks the key {key!r}")


def untensored(value: Any) -> Any:
    """An option with numbers in place of arrays and tensors that are one; lists stay lists.

    In torch lr and betas may be tensors of one element, and in NumPy they may be 0-d arrays.
    """
    if isinstance(value, list):
        return list(map(untensored, value))
    if isinstance(value, tuple):
        return tuple(map(untensored, value))
    numel = getattr(value, "numel", None)  # a tensor's number of elements; arrays do not have it
    is_number = numel() == 1 if callable(numel) else getattr(value, "ndim", None) == 0
    return value.item() if is_number else value


def _match_keys(saved_groups: Any, arrays: Arrays) -> list[Any]:
    """For each of our arrays its key in the state dict: the same key, else torch's index."""
    ours = _keys_of_groups(arrays)
    if len(saved_groups) != len(ours):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved_groups)}, expected {len(ours)}"
        )
    saved = [list(group["params"]) for group in saved_groups]
    for i, (theirs, mine) in enumerate(zip(saved, ours, strict=True)):
        if len(theirs) != len(mine):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                f"optimizer's group: group {i} has {len(theirs)} parameters, expected {len(mine)}"
            )
    missing = [set(mine) - set(theirs) for theirs, mine in zip(saved, ours, strict=True)]
    if not any(missing):
        return [slot.key for slot in arrays.slots]
    flat = [key for group in saved for key in group]
    if flat == list(range(len(arrays.slots))):
        return flat
    key = min(repr(key) for keys in missing for key in keys)
    raise KeyError(f"state dict: no parameter {key}; found {flat}")


def _read_slot(
    rule: Rule,
    label: str,
    entry: Mapping[str, Any],
    slot: Slot,
    group: Group,
    adopts: Adopts | None,
    first: Array,
) -> Slot:
    """The slot with the state of an entry, or as before the first step if that is empty.

    What goes on from the parameter and is not in the entry begins with `first`.
    """
    param = slot.param
    dtype = stored_as(param, slot.state_dtype)
    dtypes = rule.stored_as(dtype, computed_in(param))

    def placed(values: Array, number: int, dtype: np.dtype[Any]) -> Array:
        if adopts and values.dtype == dtype and adopts(values, param, number):
            return values
        return state_like(param, number, values, dtype)

    kept = rule.kept(group)
    needed = {name for name in rule.states if name in kept or entry.get(name) is not None}
    numbers = rule.number_names
    if entry:
        known = ("step", AVERAGE, *RESTS)
        expected = {*needed, *numbers, *(name for name in entry if name in known)}
        found = {key for key, value in entry.items() if value is not None}
        if found != expected or ("step" not in found and rule.saves_step):
            raise KeyError(
                f"{label} has the keys {sorted(map(str, found))}, "
                f"expected {sorted({'step', *needed, *numbers})}"
            )
    found_state = {
        name: check_stored(f"{label}[{name!r}]", entry[name], param) for name in needed if entry
    }
    moments = {name: values for name, values in found_state.items() if name not in rule.exact}
    kinds = {name_of(values.dtype) for values in moments.values()}
    if "uint8" in kinds and len(kinds) > 1:
        raise ValueError(f"{label} has moments of different dtypes: {', '.join(sorted(kinds))}")
    expected_dtypes = dict(zip(rule.states, dtypes, strict=True))
    if any(values.dtype != expected_dtypes[name] for name, values in found_state.items()):
        step = _read_count(rule, label, entry)
        seed, origin = group["seed"], slot.origin
        found_state = converted(rule, found_state, param, dtype, seed, step, origin)
    state: list[Array | None] = []
    for number, name in enumerate(rule.states):
        if name not in needed:
            state.append(None)
        elif entry:
            state.append(placed(found_state[name], number, dtypes[number]))
        else:
            state.append(state_like(param, number, 0.0, dtypes[number]))
    average = None
    if slot.average is None and entry.get(AVERAGE) is not None:
        raise ValueError(f"{label} has an average of the parameter; set ema_decay to take it over")
    if slot.average is not None and entry.get(AVERAGE) is not None:
        values = check_form(f"{label}[{AVERAGE!r}]", entry[AVERAGE], param, computed_in(param))
        average = placed(values, len(state), values.dtype)
    elif slot.average is not None:
        average = state_like(param, len(state), numbers_of(first), computed_in(param))
    rest = slot.rest
    if rest is not None:
        saved = entry.get(rest_name(param))
        if saved is not None:
            saved = _check_rest(f"{label}[{rest_name(param)!r}]", saved, param, rest.dtype)
            rest = placed(saved, len(state) + 1, rest.dtype)
        else:
            rest = rest_of(slot._replace(user=first))
    return slot._replace(state=tuple(state), average=average, rest=rest)


def check_form(label: str, value: Any, param: Array, dtype: np.dtype[Any] | None = None) -> Array:
    """Check what goes with a plain parameter: its shape, and that it has a dtype, or its own."""
    dtype = param.dtype if dtype is None else dtype
    return _check_kept(label, check_is_array(label, value, dtype, param.shape), param, (dtype,))


def _check_rest(label: str, value: Any, param: Array, dtype: np.dtype[Any]) -> Array:
    """Check what a half-precision parameter lacks; fastadam.torch has int16 as two bytes each."""
    found = check_is_array(label, value, dtype, param.shape)
    is_bytes = dtype == REMAINDER and found.dtype == np.uint8
    if is_bytes and found.shape == (*param.shape, dtype.itemsize):
        found = np.ascontiguousarray(found).view(dtype)[..., 0]
    return check_form(label, found, param, dtype)


def check_stored(label: str, value: Any, param: Array) -> Array:
    """Check a moment, which may be stored in any way; bfloat16 comes back as uint16."""
    dtype = computed_in(param)
    if not is_stepped_in_float32(dtype):
        return check_form(label, value, param, dtype)
    others = (BFLOAT16, INT8, FLOAT16) if dtype == np.float32 else (BFLOAT16, INT8)
    return _check_kept(label, _array_of(label, value, param), param, (dtype, *others))


def _check_kept(label: str, found: Array, param: Array, dtypes: Sequence[np.dtype[Any]]) -> Array:
    dtype = found.dtype if found.dtype in dtypes else dtypes[0]
    shape, _ = form(param, dtype)
    if found.shape != shape:
        whose = "the parameter's"
        if shape != param.shape:
            whose = f"{name_of(dtype)} of a parameter of shape {param.shape}"
        raise ValueError(f"{label}: shape {found.shape}, expected {shape} as {whose}")
    if found.dtype != dtype:
        names = ", ".join(map(name_of, dtypes[:-1])) + " or " * (len(dtypes) > 1)
        raise TypeError(
            f"{label}: dtype {name_of(found.dtype)}, expected {names}{name_of(dtypes[-1])}, as the "
            f"parameter is {name_of(param.dtype)}"
        )
    return found


def _array_of(label: str, value: Any, param: Array) -> Array:
    """An array of state as backends have it; torch's tensors of bfloat16 give none themselves."""
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":
        value = value.detach().view(sys.modules["torch"].uint16)
    return codes_of(check_is_array(label, value, computed_in(param), param.shape))


def converted(
    rule: Rule,
    state: dict[str, Array],
    param: Array,
    dtype: np.dtype[Any],
    seed: int,
    step: int,
    origin: int = 0,
) -> dict[str, Array]:
    """Moments stored in other ways, decoded and, for codes, rounded once."""
    stored = [state.get(name) for name in rule.states]
    numbers = quietly(decoded_state, rule, stored, param)
    if dtype in (BFLOAT16, INT8):
        numbers = quietly(encoded_state, rule, numbers, param, dtype, seed, step, origin)
    named = zip(rule.states, numbers, strict=True)
    return {name: array for name, array in named if array is not None}


def _read_count(rule: Rule, label: str, entry: Mapping[str, Any]) -> int:
    """The step count; torch.optim.SGD keeps none, and asks only whether it is zero."""
    return read_step(f"{label}['step']", entry.get("step", 1)) if entry else 0


def read_number(label: str, value: Any, number: Number) -> float:
    """The value of one of a rule's running numbers."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{label}: expected a number, found {value!r}") from None
    except OverflowError:
        found = math.inf
    if not (0.0 <= found <= number.most and found < math.inf):
        most = "on" if number.most == math.inf else f"to {number.most:g}"
        raise ValueError(f"{label}: expected a number from 0 {most}, found {found}")
    return found


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
