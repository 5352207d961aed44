"""State dicts of other packages: read as ours, and ours written so that they can read them.

What differs is in a table of each rule, `Rule.others`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastadam._rules import Rule

StateDict = dict[str, Any]


def from_others(rule: Rule, state_dict: Mapping[str, Any]) -> StateDict:
    """A state dict under our names; what is ours in it stays. Nothing in it is checked here."""
    others = rule.others
    state = {
        key: _ours(rule, entry) if isinstance(entry, Mapping) else entry
        for key, entry in state_dict["state"].items()
    }
    groups = [_ours(rule, group) for group in state_dict["param_groups"]]
    for group in groups:
        for name in others.options:
            group.pop(name, None)
        counts = {own: group.pop(name) for name, own in others.counts.items() if name in group}
        for key in group["params"] if counts else ():
            if state.get(key):  # or it has no state yet
                state[key] = {**counts, **state[key]}
    return {**state_dict, "state": state, "param_groups": groups}


def _ours(rule: Rule, found: Mapping[str, Any]) -> StateDict:
    """A state or a param group under our names."""
    own = dict(found)
    theirs = {name: own.pop(name) for name, _ in rule.others.names if name in own}
    for name, our_name in rule.others.names:
        if name in theirs:
            own.setdefault(our_name, theirs[name])
    return own


def for_others(rule: Rule, state_dict: StateDict) -> StateDict:
    """A state dict of ours that has besides what other packages look for.

    Their counts are those of a group, so they become those of its array with most steps. What has
    no step yet is left out, since there it has no state.
    """
    others = rule.others
    if others == type(others)():
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
