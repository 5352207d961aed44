"""Nested containers of arrays.

A *spec* is a nesting of lists and dicts with the leaves' indices in place of
the arrays: ``{"W": 0, "layers": [1, 2]}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from operator import is_
from typing import Any, TypeAlias

from fastadam._checks import kind

Spec: TypeAlias = Any  # int | list[Spec] | dict[Hashable, Spec]; mypy has no recursive aliases here
Path: TypeAlias = tuple[Any, ...]


def index(nest: Any, leaves: list[tuple[Path, Any]], first: int = 0, path: Path = ()) -> Spec:
    """The spec of a nesting; its leaves are appended to `leaves` with their paths.

    The first leaf in the list has the index `first`.
    """
    if isinstance(nest, Mapping):
        return {key: index(child, leaves, first, (*path, key)) for key, child in nest.items()}
    if isinstance(nest, list | tuple):
        return [index(child, leaves, first, (*path, i)) for i, child in enumerate(nest)]
    leaves.append((path, nest))
    return first + len(leaves) - 1


def flatten(spec: Spec, nest: Any, label: str) -> Iterator[Any]:
    """The leaves of `nest`, in the order of the spec, whose nesting it must repeat."""
    if isinstance(spec, dict):
        if not isinstance(nest, Mapping):
            raise TypeError(f"{label}: expected a dict, found {kind(nest)}{_hint(nest)}")
        for key in spec:
            if key not in nest:
                raise KeyError(
                    f"{label} lacks the key {key!r}; give None for an array without a gradient"
                )
        for key in nest:
            if key not in spec:
                raise KeyError(
                    f"{label} has an unexpected key {key!r}, which the parameters do not have"
                )
        for key, child in spec.items():
            yield from flatten(child, nest[key], f"{label}[{key!r}]")
    elif isinstance(spec, list):
        if not isinstance(nest, list | tuple):
            raise TypeError(f"{label}: expected a list or tuple, found {kind(nest)}{_hint(nest)}")
        children = list(nest)  # which keys of dicts within may shorten
        if len(children) != len(spec):
            raise ValueError(
                f"{label}: expected {len(spec)} entries, found {len(children)}; gradients are "
                "nested as the parameters are, with None for an array that has none"
            )
        for i, child in enumerate(spec):
            yield from flatten(child, children[i], f"{label}[{i}]")
    else:
        yield nest


def _hint(nest: Any) -> str:
    return "" if nest is not None else "; give None for each array in it that has no gradient"


def build(spec: Spec, leaves: Sequence[Any]) -> Any:
    """The nesting of the spec with these leaves; lists stand for tuples."""
    if isinstance(spec, dict):
        return {key: build(child, leaves) for key, child in spec.items()}
    if isinstance(spec, list):
        return [build(child, leaves) for child in spec]
    return leaves[spec]


def present(spec: Spec, nest: Any) -> Iterator[tuple[int, Any]]:
    """(its index, what is there now) of each leaf whose key or entry a nesting still has.

    What stands in place of a dict or a list is there in place of all its leaves.
    """
    if isinstance(spec, int):
        yield spec, nest
    elif isinstance(spec, dict):
        is_dict = isinstance(nest, Mapping)
        for key, child in spec.items():
            if not is_dict or key in nest:
                yield from present(child, nest[key] if is_dict else nest)
    elif isinstance(nest, list | tuple):
        for child, value in zip(spec, nest, strict=False):
            yield from present(child, value)
    else:
        for child in spec:
            yield from present(child, nest)


def take(spec: Spec, nest: Any, leaves: list[Any]) -> bool:
    """Append the leaves of a nesting; False if it is unusual, or is not as the spec says."""
    if type(spec) is int:
        leaves.append(nest)
        return True
    if type(spec) is list:
        children = tuple(nest) if type(nest) in (list, tuple) else ()
        return len(children) == len(spec) and all(map(take, spec, children, repeat(leaves)))
    return (
        type(nest) is dict
        and nest.keys() == spec.keys()
        and all(take(child, nest[key], leaves) for key, child in spec.items())
    )


def is_unchanged(spec: Spec, nest: Any, leaves: Sequence[Any]) -> bool:
    """Whether a nesting is one of plain dicts, lists and tuples, with just these leaves."""
    found: list[Any] = []
    expected: list[Any] = []
    take(spec, build(spec, leaves), expected)
    return take(spec, nest, found) and all(map(is_, found, expected))


def label(prefix: str, path: Path) -> str:
    """A leaf as the user would write it: ``grads['layers'][0]``."""
    return prefix + "".join(f"[{step!r}]" for step in path)
