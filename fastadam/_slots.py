"""One record for each array, and the memory that a step works on.

A backend takes only *plain* arrays: dense, aligned, in the order of the parameter's memory.
For what a user has in another form the record holds a plain stand-in; a step copies the array
into it and, if it is written, back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from fastadam._rules import Rule
from fastadam._types import Array

#: Elements of an array that caches do not hold: BEYOND_CACHE in csrc/blocks.c.
BEYOND_CACHE = 2 << 20


class Slot(NamedTuple):
    """All that is known of a parameter. It never changes; new state makes a new slot."""

    key: Any  # its name in state dicts
    suffix: str  # what messages add to "params" or "grads" to name it, such as "['W']"
    user: Array  # as the user holds it
    view: Array  # of `user`, as it was when the slot was made: the user could move or reshape it
    group: int  # the number of its param group
    param: Array  # plain: a view of `user`, or a stand-in
    state: tuple[Array | None, ...]  # plain; one for each of the rule's, None if it is not kept
    average: Array | None  # plain; the moving average of the parameter over steps
    copies: tuple[tuple[Array, Array], ...]  # (a view of the user's array, its stand-in)


def slot(
    rule: Rule, row: Sequence[Array | None], group: int, suffix: str = "", key: Any = None
) -> Slot:
    """A slot of users' arrays: a parameter, and its state where that is the user's, too."""
    param = row[0]
    assert param is not None
    views = [None if array is None else view_of(array) for array in row]
    like: Any = views[0]
    if not is_plain(like):
        like = np.empty_like(like)
    plain: list[Any] = []
    copies = []
    for view in views:
        if view is None:
            plain.append(None)
        elif is_plain(view) and same_order(view, like):
            plain.append(view)
        else:
            plain.append(np.empty_like(like))
            copies.append((view, plain[-1]))
    missing = (None,) * (1 + len(rule.states) - len(plain))
    return Slot(
        key=key,
        suffix=suffix,
        user=param,
        view=cast(Array, views[0]),
        group=group,
        param=plain[0],
        state=(*plain[1:], *missing),
        average=None,
        copies=tuple(copies),
    )


def view_of(array: Array) -> Array:
    """The array as it is now, whatever its class says of it and however it changes later."""
    return np.ndarray.view(array, np.ndarray)


def with_state(bare: Slot, states: Sequence[Array | float | None], average: Array | None) -> Slot:
    """The slot with new state that begins with these values; None for what is not kept."""
    *state, mean = (
        None if values is None else state_like(bare.param, number, values)
        for number, values in enumerate((*states, average))
    )
    return bare._replace(state=tuple(state), average=mean)


def state_like(array: Array, number: int, values: Array | float = 0.0) -> Array:
    """A plain array's state of that number, in the order of its memory.

    NumPy asks for huge pages for what is filled, but not for calloc's zeros.
    """
    unit, shift = _place(array, number)
    memory = np.empty(array.nbytes + unit, np.uint8)
    offset = (_address(array) + shift - _address(memory)) % unit
    strides = np.empty_like(array, subok=False).strides
    state: Array = np.ndarray(array.shape, array.dtype, memory, offset, strides)
    state[...] = values
    return state


def lies_as_state(array: Array, like: Array, number: int) -> bool:
    """Whether an array lies in memory as a plain array's state of that number should."""
    unit, shift = _place(like, number) if like.size < BEYOND_CACHE else (64, 0)
    return (
        array.flags.aligned
        and array.flags.writeable
        and same_order(array, like)
        and (_address(array) - _address(like) - shift) % unit == 0
    )


def _place(array: Array, number: int) -> tuple[int, int]:
    """Where an array's state should begin: (unit, shift), so far behind the array in each unit.

    State begins as far behind a cache line's border as the array, and if large, some lines off
    in a page, so that no store looks like one to what is loaded next: in the cache, either can
    make a step take 1.2 times as long (AVX2).
    """
    return (64, 0) if array.nbytes < 65536 else (4096, 1024 * (number + 1))


def is_plain(array: Array) -> bool:
    """Whether a backend can walk the array's memory from end to end."""
    if not array.flags.aligned:
        return False
    if array.flags.forc:
        return True
    extent = array.itemsize
    for stride, length in sorted(zip(array.strides, array.shape, strict=True)):
        if length > 1:
            if stride != extent:
                return False
            extent *= length
    return True


def same_order(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape have their elements at equal distances in memory."""
    if (a.flags.c_contiguous and b.flags.c_contiguous) or (
        a.flags.f_contiguous and b.flags.f_contiguous
    ):
        return True
    return all(
        step_a == step_b or length == 1
        for step_a, step_b, length in zip(a.strides, b.strides, a.shape, strict=True)
    )


class Watched(NamedTuple):
    """An array that a step writes, and what it must still be like; the twin of _native's."""

    user: Array
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    first: Array  # the byte in which its memory begins,
    last: Array  # and that in which it ends

    def is_as_made(self) -> bool:
        """Whether the user's array is as it was; False, too, where that is not seen at once.

        An array of that shape and those strides that has both bytes has the same address. To
        ask NumPy for that takes three times as long.
        """
        user = self.user
        return (
            type(user) is np.ndarray
            and user.flags.writeable
            and user.shape == self.shape
            and user.strides == self.strides
            and user.dtype == self.dtype
            and np.may_share_memory(user, self.first)
            and np.may_share_memory(user, self.last)
        )


def watched(user: Array, view: Array) -> Watched:
    """The record of an array of which this is a view."""
    ends = []
    for at_end in (False, True):
        index = [
            slice(-1, None) if (stride > 0) is at_end else slice(0, 1) for stride in view.strides
        ]
        ends.append(view[(*index, ...)].reshape(-1).view(np.uint8))
    return Watched(user, view.shape, view.strides, view.dtype, ends[0][:1], ends[1][-1:])


def owner_of(array: Array) -> Any:
    """The ndarray in whose own memory this one lies; None where that is not known.

    Arrays with two different owners lie apart.
    """
    owner = array
    while type(owner.base) is np.ndarray:
        owner = owner.base
    return owner if owner.base is None and owner.flags.owndata else None


def layout_of(array: Array) -> tuple[Any, ...]:
    """All that tells where an array's elements are."""
    return array.shape, array.strides, array.dtype, _address(array)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
