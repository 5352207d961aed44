"""State dicts of other packages: read as ours, and ours written so that they can read them.

What differs is in a table of each rule, `Rule.others`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastadam._rules.rule import Others, Rule

StateDict = dict[str, Any]


def from_others(rule: Rule, state_dict: Any) -> Any:
    """A state dict under our names, of which `check_layout` found that it is one.

    One of ours that went on in another package has both names, ours as they were when it left.
    """
    others = rule.others
    if others == Others():
        return state_dict
    state = dict(state_dict["state"])
    groups = []
    for number, found in enumerate(state_dict["param_groups"]):
        _check_decay(others, number, found)
        group = {key: value for key, value in found.items() if key not in others.options}
        counts = {own: group.pop(name) for name, own in others.counts.items() if name in group}
        keys = [key for key in group["params"] if state.get(key)]  # or it has no state yet
        # Where both are there, those that have done more steps count.
        own_steps = [_number(state[key].get("step")) for key in keys]
        is_theirs = _number(counts.get("step")) > max(own_steps, default=-1.0)
        for key in keys:
            state[key] = _ours(rule, state[key], counts, is_theirs)
        groups.append(_ours(rule, group, {}, is_theirs))
    return {**state_dict, "state": state, "param_groups": groups}


def _check_decay(others: Others, number: int, found: Mapping[str, Any]) -> None:
    """Check that weight decay, if there is any, is as ours."""
    decay = found.get("weight_decay", 0)
    for name in others.of_decay:
        ours = others.options[name]
        if decay and found.get(name, ours) != ours:
            raise ValueError(
                f"state dict: param_groups[{number}] has {name}={found[name]!r} and "
                f"weight_decay={decay!r}; weight decay here is as with {name}={ours!r}"
            )


def _ours(rule: Rule, found: Mapping[str, Any], counts: StateDict, is_theirs: bool) -> StateDict:
    """A state or a param group under our names; `is_theirs` says which counts of two names."""
    names = rule.others.names
    theirs = {**counts, **{own: found[name] for name, own in names if name in found}}
    ours = {key: value for key, value in found.items() if key not in dict(names)}
    return {**ours, **theirs} if is_theirs else {**theirs, **ours}


def _number(value: Any) -> float:
    """A number, or -1 for what will be refused, by its name, when it is read."""
    try:
        return float(value)
    except Exception:  # whatever a tensor of another kind raises
        return -1.0


def for_others(rule: Rule, state_dict: StateDict) -> StateDict:
    """A state dict of ours that has besides what other packages look for.

    Their counts are those of a group, so they become those of its array with most steps. What has
    no step yet is left out, since there it has no state.
    """
    others = rule.others
    if others == Others():
        return state_dict
    state = {
        key: _with_theirs(rule, entry)
        for key, entry in state_dict["state"].items()
        if isinstance(entry, dict) and int(entry.get("step", 0))
    }
    first = {"step": 0, **{number.name: number.first for number in rule.numbers}}
    groups = []
    for group in state_dict["param_groups"]:
        entries = [state[key] for key in group["params"] if key in state]
        most = max(entries, key=lambda entry: int(entry["step"]), default=first)
        counts = {
            name: (int if own == "step" else float)(most[own])
            for name, own in others.counts.items()
        }
        groups.append({**_with_theirs(rule, group), **others.options, **counts})
    return {**state_dict, "state": state, "param_groups": groups}


def _with_theirs(rule: Rule, own: StateDict) -> StateDict:
    """A state or a param group with their names beside ours, where that says the same."""
    found: dict[str, list[Any]] = {}
    for name, our_name in rule.others.names:
        if our_name in own:
            found.setdefault(name, []).append(own[our_name])
    same = {n: v[0] for n, v in found.items() if all(x is v[0] or x == v[0] for x in v)}
    return {**own, **same}
