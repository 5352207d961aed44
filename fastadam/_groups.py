"""Param groups: from what a user passes as parameters to slots with keys and state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

import numpy as np

from fastadam import _hyper, _tree
from fastadam._arrays import Arrays, Written
from fastadam._checks import check_separate, check_written, is_stepped_in_float32, kind
from fastadam._codecs import INT8, codes_of, computed_in
from fastadam._hyper import Group
from fastadam._rules import Rule
from fastadam._slots import Slot, in_c_order, layout_of, slot, stored_as, with_state
from fastadam._state import check_form
from fastadam._types import Array


def are_groups(params: Any) -> bool:
    """Whether parameters come as a list of param groups.

    Raises
    ------
    ValueError
        They were probably meant as such, and are none.
    """
    if isinstance(params, Mapping) and "params" in params and _has_options(params):
        raise ValueError("params looks like a param group; put it into a list: [{...}]")
    if not isinstance(params, list | tuple) or not params:
        return False
    is_group = [isinstance(entry, Mapping) and "params" in entry for entry in params]
    if any(is_group) and not all(is_group):
        for i, entry in enumerate(params):
            if not is_group[i] and _has_options(entry):
                raise ValueError(
                    f"params looks like a list of param groups, but entry {i} has no 'params'"
                )
    return all(is_group)


def _has_options(entry: Any) -> bool:
    """Whether a dict has options in it where a nesting of parameters would have arrays."""
    return isinstance(entry, Mapping) and any(
        key in _hyper.OPTIONS and not isinstance(value, np.ndarray | Mapping | list)
        for key, value in entry.items()
    )


def added(
    rule: Rule,
    old: Arrays | None,
    groups: Sequence[Mapping[str, Any]],
    defaults: Group,
    ema_decay: float | None,
    grouped: bool,
    *,
    has_state: bool = True,
) -> tuple[Arrays, list[Group]]:
    """The arrays of an optimizer with these groups behind those that it has, and the new groups.

    Parameters
    ----------
    old : Arrays, optional
        Those that it has.
    groups : sequence of mapping
        ``"params"``, and the options in which a group differs from `defaults`.
    grouped : bool
        Whether gradients come as a list with one entry for each group.
    has_state : bool
        Whether the slots get state, which is not so where others keep it.

    Raises
    ------
    TypeError, ValueError
        A group, an array or an option does not fit.
    """
    specs, nests, slots = (old.specs, old.nests, list(old.slots)) if old else ([], [], [])
    if old and grouped and not old.grouped:
        slots = [slot._replace(suffix="[0]" + slot.suffix) for slot in slots]
    n_old, taken = len(slots), {slot.key for slot in slots}
    new_groups: list[Group] = []
    for group in groups:
        if not isinstance(group, Mapping):
            raise TypeError(f"a param group must be a dict, found {kind(group)}")
        if "params" not in group:
            raise ValueError("a param group needs a 'params' entry")
        number = len(specs)
        _check_keys(rule, group, number)
        found: list[tuple[_tree.Path, Any]] = []
        specs.append(_tree.index(group["params"], found, len(slots)))
        nests.append(group["params"])
        keys = _keys(group["params"], [path for path, _ in found], number, len(slots), taken)
        taken.update(keys)
        for key, (path, array) in zip(keys, found, strict=True):
            suffix = _tree.label(f"[{number}]" if grouped else "", path)
            check_written("params" + suffix, array)
            slots.append(slot(rule, [array], number, suffix, key))
        params = tuple(array for _, array in found)
        new_groups.append({**defaults, **group, "params": params})
    if not slots:
        raise ValueError("optimizer got an empty parameter list")
    check_separate([("params" + slot.suffix, slot.user) for slot in slots])
    for group in new_groups:
        float32 = any(is_stepped_in_float32(param.dtype) for param in group["params"])
        traits = _hyper.Traits(rule.options, float32, ema_decay=ema_decay or 0.0)
        group.update(_hyper.checked(group, traits))
    n_old_groups = len(specs) - len(new_groups)
    for bare in slots[n_old:]:
        _check_storage(bare, new_groups[bare.group - n_old_groups])
    for i, bare in enumerate(slots[n_old:], n_old):
        options = new_groups[bare.group - n_old_groups]
        if has_state:
            slots[i] = with_new_state(rule, bare, options, ema_decay)
        else:
            slots[i] = without_state(bare, options)
    return arranged(rule, specs, nests, slots, ema_decay, grouped), new_groups


def _check_keys(rule: Rule, group: Mapping[str, Any], number: int) -> None:
    """Check that a new group has no key but those of options, 'params', and a user's 'name'."""
    known = ("params", *rule.options, "name")
    for key in group:
        if key not in known:
            from difflib import get_close_matches  # which takes some time to import

            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(
                f"param group {number} has the unknown key {key!r}{hint} Known are "
                f"{', '.join(map(repr, known))}"
            )


def arranged(
    rule: Rule,
    specs: Sequence[_tree.Spec],
    nests: Sequence[Any],
    slots: Sequence[Slot],
    ema_decay: float | None,
    grouped: bool,
) -> Arrays:
    """An optimizer's arrays, of its groups' specs and nestings and of slots with state."""
    return Arrays(
        rule=rule,
        spec=list(specs) if grouped else specs[0],
        names=("params", "grads"),
        slots=slots,
        written=[Written("params" + slot.suffix, slot.user, slot.view) for slot in slots],
        n_groups=len(specs),
        grouped=grouped,
        ema_decay=ema_decay,
        nest=list(nests) if grouped else nests[0],
    )


def found_params(arrays: Arrays) -> list[Array]:
    """Views of the parameters, once it is checked that these are where they were."""
    arrays.check_nest()
    for i, own in enumerate(arrays.slots):
        if layout_of(own.user) != layout_of(own.view):
            arrays.check_param(i)  # which says what is wrong
    return [slot.view for slot in arrays.slots]


def param_changes(arrays: Arrays, values: Sequence[Array]) -> list[Callable[[], object]]:
    """The calls of C that give the parameters values, which are checked."""
    pairs = zip(found_params(arrays), arrays.slots, values, strict=True)
    for i in range(len(arrays.slots)):
        arrays.check_param(i)
    return [
        partial(
            codes_of(view).__setitem__,
            ...,
            check_form("the saved params" + slot.suffix, value, codes_of(view)),
        )
        for view, slot, value in pairs
    ]


def without_state(bare: Slot, options: Group) -> Slot:
    """A slot whose state lies elsewhere, with its parameter as that would need it."""
    if stored_as(bare.param, options["state_dtype"]) == INT8:
        bare = in_c_order(bare)
    return bare._replace(state_dtype=options["state_dtype"])


def with_new_state(rule: Rule, bare: Slot, options: Group, ema_decay: float | None) -> Slot:
    """A slot with state as it is before the first step, under a group's options."""
    kept, dtype = rule.kept(options), stored_as(bare.param, options["state_dtype"])
    zeros = [0.0 if name in kept else None for name in rule.states]
    if dtype == INT8:
        bare = in_c_order(bare)
    bare = bare._replace(state_dtype=options["state_dtype"])
    dtypes = rule.stored_as(dtype, computed_in(bare.param))
    return with_state(bare, zeros, None if ema_decay is None else bare.user, dtypes)


def _check_storage(bare: Slot, options: Group) -> None:
    """Check that an array's moments can be stored in fewer bits, if its group asks for that."""
    state_dtype = options["state_dtype"]
    if state_dtype is not None and not is_stepped_in_float32(bare.user.dtype):
        raise ValueError(
            f"params{bare.suffix} is {bare.user.dtype}, and state_dtype={state_dtype!r} is for "
            "arrays that are stepped in float32; put it into a param group with state_dtype=None"
        )


def _keys(
    nest: Any, paths: Sequence[_tree.Path], group: int, first: int, taken: Set[Any]
) -> list[Any]:
    """The keys of a group's arrays: torch's indices, a flat dict's keys, or dotted paths.

    `first` is the index of the group's first array. Where one of the keys is `taken` by earlier
    groups, all get a prefix with the group's number. If one of those is taken, too, a user could
    rename what has a name; for lists there is another prefix.
    """
    own: list[Any]
    if any(len(path) > 1 for path in paths):
        own = [".".join(map(str, path)) for path in paths]
    elif isinstance(nest, Mapping):
        own = [path[0] for path in paths]
    else:
        own = list(range(first, first + len(paths)))
    keys, prefix = own, f"{group}."
    if not taken.isdisjoint(own):
        keys = [f"{prefix}{key}" for key in own]
    while True:
        twice = _first_twice(keys, taken)
        if twice is None:
            return keys
        if _has_names(nest, paths[twice]):
            raise ValueError(f"two parameters have the same key {keys[twice]!r}; rename one")
        prefix = "group" + prefix
        keys = [f"{prefix}{key}" for key in own]


def _first_twice(keys: Sequence[Any], taken: Set[Any]) -> int | None:
    """Where the first key is that is taken, or was there before."""
    seen = set()
    for i, key in enumerate(keys):
        if key in taken or key in seen:
            return i
        seen.add(key)
    return None


def _has_names(nest: Any, path: _tree.Path) -> bool:
    """Whether a dict is on the way to an array, and not lists alone."""
    for step in path:
        if isinstance(nest, Mapping):
            return True
        nest = nest[step]
    return False
