"""One record for each array, and the memory that a step works on.

A backend takes only *plain* arrays: dense, aligned, in the order of the parameter's memory.
For what a user has in another form the record holds a plain stand-in; a step copies the array
into it and, if it is written, back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from fastadam import _codecs
from fastadam._checks import real_numbers
from fastadam._codecs import codes_of, computed_in, numbers_of
from fastadam._rules import Rule
from fastadam._types import Array

#: Elements of an array that caches do not hold: BEYOND_CACHE in csrc/blocks.c.
BEYOND_CACHE = 2 << 20
#: Arrays of fewer real numbers have no state in 8 bits (as in bitsandbytes).
LEAST_IN_INT8 = 4096
LINE = 64  # bytes of a cache line: FA_LINE in csrc/impl.h
#: Numbers that are decoded or encoded at a time; whole blocks.
PART = 65536


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
    #: What a parameter lacks of a float32: for bfloat16 the remainder, for float16 the master.
    rest: Array | None = None
    state_dtype: str | None = None  # the option with which its state was made
    origin: int = 0  # where its first number is in the whole, if it is a part of an array


def slot(
    rule: Rule,
    row: Sequence[Array | None],
    group: int,
    suffix: str = "",
    key: Any = None,
    rest: Array | None = None,
) -> Slot:
    """A slot of users' arrays: a parameter, and its state where that is the user's, too."""
    param = row[0]
    assert param is not None
    user_view = view_of(param)
    views = [None if array is None else codes_of(view_of(array)) for array in row]
    like: Any = views[0]
    in_blocks = any(view is not None and view.dtype == _codecs.INT8 for view in views)
    if not is_plain(like) or (in_blocks and not like.flags.c_contiguous):
        like = np.empty_like(like, order="C" if in_blocks else "K")
    plain: list[Any] = []
    copies = []
    for number, view in enumerate((*views, rest)):
        if view is None:
            plain.append(None)
        elif is_plain(view) and goes_along(view, like):
            plain.append(view)
        else:
            plain.append(state_like(like, number, 0.0, view.dtype))
            copies.append((view, plain[-1]))
    plain_rest = plain.pop()
    missing = (None,) * (1 + len(rule.states) - len(plain))
    return Slot(
        key=key,
        suffix=suffix,
        user=param,
        view=user_view,
        group=group,
        param=plain[0],
        state=(*plain[1:], *missing),
        average=None,
        copies=tuple(copies),
        rest=plain_rest,
    )


def streams_of(own: Slot) -> list[Array | None]:
    """A slot's state, its average, and what its parameter lacks; `stream_names` has their names."""
    return [*own.state, own.average, own.rest]


def view_of(array: Array) -> Array:
    """The array as it is now, whatever its class says of it and however it changes later."""
    return np.ndarray.view(array, np.ndarray)


def real_dtype(param: Array) -> np.dtype[Any]:
    """The dtype of the real numbers with which a plain parameter is stepped."""
    return real_of(computed_in(param))


def real_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a complex number's parts; of real ones their own."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def stored_as(param: Array, state_dtype: str | None) -> np.dtype[Any]:
    """The dtype of a plain parameter's moments."""
    if state_dtype == "bfloat16":
        return _codecs.BFLOAT16
    if state_dtype == "int8" and real_numbers(param) >= LEAST_IN_INT8:
        return _codecs.INT8
    return computed_in(param)


def in_c_order(bare: Slot) -> Slot:
    """The slot with its parameter in C order, in which blocks of 8 bits count elements."""
    if bare.param.flags.c_contiguous:
        return bare
    stand_in = np.empty(bare.param.shape, bare.param.dtype)
    return bare._replace(param=stand_in, copies=((codes_of(bare.view), stand_in),))


def with_state(
    bare: Slot,
    states: Sequence[Array | float | None],
    average: Array | None,
    dtypes: Sequence[np.dtype[Any] | None] = (),
) -> Slot:
    """The slot with new state that begins with these values; None for what is not kept.

    Arrays keep their dtype, for which `dtypes` has None. What is made for a number has its own.
    """
    param = bare.param
    state = tuple(
        None if values is None else state_like(param, number, values, dtype)
        for number, (values, dtype) in enumerate(zip_longest(states, dtypes))
    )
    mean = None
    if average is not None:
        mean = state_like(param, len(states), numbers_of(average), computed_in(param))
    return bare._replace(state=state, average=mean, rest=rest_of(bare))


def restored(
    bare: Slot,
    states: Sequence[Array | None],
    average: Array | None,
    rest: Array | None,
    state_dtype: str | None,
) -> Slot:
    """The slot with copies of what a pickle or a copy of it has."""
    if any(state is not None and state.dtype == _codecs.INT8 for state in states):
        bare = in_c_order(bare)
    made = with_state(bare._replace(state_dtype=state_dtype), states, average)
    return made._replace(rest=None if rest is None else rest_of(bare, rest))


def rest_of(bare: Slot, values: Array | float | None = None) -> Array | None:
    """What a half-precision parameter lacks of a float32, with these values; None for others."""
    number = len(bare.state) + 1
    if bare.param.dtype == _codecs.BFLOAT16:
        return state_like(bare.param, number, 0 if values is None else values, _codecs.REMAINDER)
    if bare.param.dtype == _codecs.FLOAT16:
        first = bare.user if values is None else values
        return state_like(bare.param, number, first, np.dtype(np.float32))
    return None


def rest_like(param: Array) -> Array | None:
    """An array without numbers that has the dtype of what a plain parameter lacks, if anything."""
    if not _codecs.is_half(param.dtype):
        return None
    is_code = param.dtype == _codecs.BFLOAT16
    return np.empty(0, _codecs.REMAINDER if is_code else np.float32)


def state_like(
    array: Array, number: int, values: Array | float = 0.0, dtype: np.dtype[Any] | None = None
) -> Array:
    """A plain array's state of that number, in the order of its memory.

    Its dtype is that of the values, or `dtype` for a number. Older versions of NumPy (2.0) ask for
    huge pages for what is filled, but not for calloc's zeros.
    """
    if isinstance(values, np.ndarray) and dtype is None:
        dtype = values.dtype
    dtype = array.dtype if dtype is None else dtype
    shape, strides = form(array, dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    unit, shift = _place(array, n_bytes, number)
    memory = np.empty(n_bytes + unit, np.uint8)
    # A cache line begins with the same number in both, whatever their dtypes.
    to_line = -_address(array) % LINE
    begin = _address(array) + to_line - to_line * _real_size(dtype) // _real_size(array.dtype)
    offset = (begin + shift - _address(memory)) % unit
    state: Array = np.ndarray(shape, dtype, memory, offset, strides)
    state[...] = values
    return state


def _real_size(dtype: np.dtype[Any]) -> int:
    """The bytes of a real number: of a complex one, half of them."""
    return dtype.itemsize // (2 if dtype.kind == "c" else 1)


def form(array: Array, dtype: np.dtype[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of a plain array's state of that dtype."""
    if dtype == _codecs.INT8:
        shape = (_codecs.n_blocks(real_numbers(array)), _codecs.BLOCK + 1)
        return shape, (_codecs.BLOCK + 1, 1)
    if array.dtype.kind == "c" and dtype == _codecs.BFLOAT16:  # two numbers for each element
        pairs = np.empty_like(array, np.uint32, subok=False)
        return (*array.shape, 2), (*pairs.strides, dtype.itemsize)
    return array.shape, np.empty_like(array, dtype, subok=False).strides


def flat(array: Array) -> Array:
    """A plain array's memory as a vector of real numbers; blocks of codes stay as they are."""
    if array.dtype == _codecs.INT8:
        return array
    if array.flags.c_contiguous:
        vector = array.ravel()
    else:
        vector = np.lib.stride_tricks.as_strided(array, (array.size,), (array.itemsize,))
    return vector.view(real_of(vector.dtype)) if vector.dtype.kind == "c" else vector


def decoded_state(rule: Rule, stored: Sequence[Array | None], param: Array) -> list[Any]:
    """Moments as arrays of the parameter's shape and of the dtype in which it is stepped.

    They are stored in any way; blocks of 8 bits have their elements in C order.
    """
    blocks = [
        array if array is not None and array.dtype == _codecs.INT8 else None for array in stored
    ]
    if any(array is not None for array in blocks):
        numbers = _decoded_blocks(rule, blocks, real_numbers(param))
        stored = [
            array if coded is None else own
            for array, coded, own in zip(stored, blocks, numbers, strict=True)
        ]
    return [None if array is None else _as_stepped(array, param) for array in stored]


def _decoded_blocks(rule: Rule, blocks: Sequence[Array | None], n: int) -> list[Array | None]:
    numbers = [None if array is None else np.empty(n, np.float32) for array in blocks]
    for place, parts in _codecs.pieces(blocks, n, PART):
        found = _codecs.decoded(rule, parts, place.stop - place.start)
        for whole, part in zip(numbers, found, strict=True):
            if whole is not None and part is not None:
                whole[place] = part
    return numbers


def _as_stepped(array: Array, param: Array) -> Array:
    """A moment that is not in 8 bits, of the dtype in which its parameter is stepped."""
    numbers = numbers_of(array)
    if param.dtype.kind == "c" and numbers.dtype.kind != "c":
        numbers = np.ascontiguousarray(numbers).reshape(-1).view(computed_in(param))
    return numbers.reshape(param.shape)


def encoded_state(
    rule: Rule,
    numbers: Sequence[Array | None],
    param: Array,
    dtype: np.dtype[Any],
    seed: int,
    step: int,
    origin: int = 0,
) -> list[Array | None]:
    """State with moments as codes of that dtype, rounded as in a step of that number.

    Their first number has the place `origin` in the whole, if they are a part.
    """
    n = real_numbers(param)
    dtypes = rule.stored_as(dtype, computed_in(param))
    made = [
        (None, None)
        if array is None
        else (
            state_like(param, k, array if dtypes[k] == array.dtype else 0.0, dtypes[k]),
            flat(state_like(param, k, array)),
        )
        for k, array in enumerate(numbers)
    ]
    stored = [array for array, _ in made]
    streams = [None if array is None else flat(array) for array in stored]
    for place, parts in _codecs.pieces(streams, n, PART):
        found = [None if vector is None else vector[place] for _, vector in made]
        _codecs.encode(rule, found, parts, np.arange(place.start, place.stop) + origin, seed, step)
    return stored


def lies_as_state(array: Array, like: Array, number: int) -> bool:
    """Whether an array lies in memory as a plain array's state of that number should."""
    if array.dtype != like.dtype:
        shape, strides = form(like, array.dtype)
        return (
            array.flags.aligned
            and array.flags.writeable
            and array.shape == shape
            and array.strides == strides
        )
    unit, shift = _place(like, like.nbytes, number) if like.size < BEYOND_CACHE else (64, 0)
    return (
        array.flags.aligned
        and array.flags.writeable
        and same_order(array, like)
        and (_address(array) - _address(like) - shift) % unit == 0
    )


def _place(array: Array, n_bytes: int, number: int) -> tuple[int, int]:
    """Where an array's state should begin: (unit, shift), so far behind the array in each unit.

    State begins as far behind a cache line's border as the array, and if large, some lines off
    in a page, so that no store looks like one to what is loaded next: in the cache, either can
    make a step take 1.2 times as long (AVX2). A parameter in half precision has one array more, for
    what it lacks of a float32: with another distance they all begin elsewhere, and a step takes
    0.9 of the time.
    """
    distance = 704 if array.itemsize == 2 else 1024
    return (LINE, 0) if n_bytes < 65536 else (4096, distance * (number + 1))


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


def goes_along(array: Array, like: Array) -> bool:
    """Whether a plain array can be a stream of a plain parameter."""
    if array.shape == like.shape:
        return same_order(array, like)
    return array.strides == form(like, array.dtype)[1] or (
        array.flags.c_contiguous and like.flags.c_contiguous
    )


def same_order(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape have their elements in the same order in memory.

    If both are dense, one of them can be walked along the other, even if it has another dtype.
    """
    if (a.flags.c_contiguous and b.flags.c_contiguous) or (
        a.flags.f_contiguous and b.flags.f_contiguous
    ):
        return True
    return all(
        step_a * b.itemsize == step_b * a.itemsize or length == 1
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
