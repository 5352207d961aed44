"""Checks on users' arrays, and the plain arrays that a backend works on.

A backend takes only *plain* arrays: dense, aligned, in the order of the
parameter's memory, and overlapping nothing that is written. Whatever else a
user has is copied into a plain stand-in and, if it is written, back.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastadam import _hyper, _rows, _tree
from fastadam._rows import Rows, SumRows
from fastadam._rules import Rule
from fastadam._types import Array

DTYPES = tuple(map(np.dtype, (np.float32, np.float64, np.complex64, np.complex128)))
SUPPORTED = "float32, float64, complex64 or complex128"


REENTERED = "a function that a step called, such as a schedule, must not use its optimizer"
PAUSED = "within use_averaged_params the optimizer must not be used"
READING = "a signal handler must not use an optimizer whose state is being read or added to"


class Slot(NamedTuple):
    """One array as a backend sees it; its arrays are plain."""

    param: Array
    state: tuple[Array | None, ...]  # as the rule's states; None for those nobody asked for
    average: Array | None  # of the parameter over steps
    group: int
    copies: tuple[tuple[Array, Array], ...]  # (user's array, plain stand-in) where they differ


class Counts(NamedTuple):
    """Finished steps of each array and of all, and skipped ones."""

    steps: list[int]
    mu_products: list[float]  # of each array; NAdam's
    finished: int = 0
    skipped: int = 0
    grad_norm: float = math.nan  # of the last step


class Arrays:
    """The arrays that are stepped together: plain, and matched with gradients at each step.

    Parameters
    ----------
    rule : Rule
    spec : nesting of lists and dicts
        Where each array's gradient is found.
    names : (str, str)
        What messages call the parameters and the gradients ...
    suffixes : sequence of str
        ... and what they add for each array, such as ``"['W']"``.
    params : sequence of ndarray
        The parameters as the user holds them.
    slots : sequence of Slot
    written : sequence of (str, ndarray)
        What a step writes of the user's, with what messages call it: the parameters, in the
        order of the slots, and then all else.
    """

    def __init__(
        self,
        rule: Rule,
        spec: _tree.Spec,
        names: tuple[str, str],
        suffixes: Sequence[str],
        params: Sequence[Array],
        slots: Sequence[Slot],
        written: Sequence[tuple[str, Array]],
        n_groups: int = 1,
        ema_decay: float | None = None,
    ) -> None:
        self.rule = rule
        self.spec = spec
        self.names = names
        self.suffixes = suffixes
        self.params = params
        self.slots = slots
        self.written = written
        self.spans = Spans([array for _, array in written])
        members: list[list[int]] = [[] for _ in range(n_groups)]
        for i, slot in enumerate(slots):
            members[slot.group].append(i)
        self.traits = [
            _hyper.Traits(
                options=rule.options,
                float32=any(slots[i].param.real.dtype == np.float32 for i in group),
                params=tuple(params[i] for i in group),
                lacking=tuple(
                    rule.asked[name]
                    for k, name in enumerate(rule.states)
                    if any(slots[i].state[k] is None for i in group)
                ),
                ema_decay=ema_decay or 0.0,
            )
            for group in members
        ]
        self._layouts = [_layout(array) for _, array in written]
        self._staged: dict[int, Array] = {}

    def name(self, i: int) -> str:
        """What messages call a gradient."""
        return self.names[1] + self.suffixes[i]

    def plain_gradients(
        self, grads: Any, weight_decays: Sequence[float], sum_rows: SumRows
    ) -> list[Array | Rows | None]:
        """The gradients, in the order of the slots, checked and plain.

        Raises
        ------
        TypeError, ValueError, KeyError
            The nesting, a shape, a dtype or a kind of array does not fit.
        """
        plain = [
            self.plain_gradient(i, leaf, weight_decays[slot.group], sum_rows)
            for i, (leaf, slot) in enumerate(zip(self.leaves(grads), self.slots, strict=True))
        ]
        self.check_written()  # all that ran other people's code
        return plain

    def check_written(self) -> None:
        """Check that what a step writes lies where it did, and may still be written."""
        for i in range(len(self.written)):
            self._check_written(i)

    def leaves(self, grads: Any) -> list[Any]:
        """The gradients, in the order of the slots, as they are."""
        return list(_tree.flatten(self.spec, grads, self.names[1]))

    def plain_gradient(
        self, i: int, grad: Any, weight_decay: float, sum_rows: SumRows
    ) -> Array | Rows | None:
        """A gradient, checked and plain."""
        if grad is None:
            return None
        self._check_written(i)
        if isinstance(grad, _rows.RowGrad) or _rows.is_sparse(grad):
            self._check_rows_alone(i, weight_decay)
            return self._apart(_rows.read(self.name(i), grad, self.slots[i].param, sum_rows))
        return self._plain(i, check_array(self.name(i), grad, self.slots[i].param))

    def check_groups(self, groups: Sequence[_hyper.Group]) -> list[_hyper.Hyper]:
        """The groups' hyper-parameters, checked."""
        if len(groups) != len(self.traits):
            raise ValueError(
                f"param_groups has {len(groups)} entries, expected {len(self.traits)}; "
                "use add_param_group"
            )
        return [
            _hyper.check_group(group, traits)
            for group, traits in zip(groups, self.traits, strict=True)
        ]

    def _check_rows_alone(self, i: int, weight_decay: float) -> None:
        """Check that a step of some rows leaves the others alone."""
        if weight_decay != 0:
            raise ValueError(
                f"{self.name(i)}: a gradient of rows, but weight_decay is {weight_decay}, "
                "which would change the others; it must be 0"
            )
        if self.slots[i].average is not None:
            raise ValueError(
                f"{self.name(i)}: a gradient of rows, but ema_decay would change the average of "
                "the others"
            )

    def _apart(self, grad: Rows) -> Rows:
        return grad._replace(values=grad.values.copy()) if self.spans.touch(grad.values) else grad

    def _plain(self, i: int, grad: Array) -> Array:
        like = self.slots[i].param
        if grad.flags.aligned and same_order(grad, like) and not self.spans.touch(grad):
            return grad
        if i not in self._staged:
            self._staged[i] = np.empty_like(like)
        np.copyto(self._staged[i], grad)
        return self._staged[i]

    def _check_written(self, i: int) -> None:
        label, array = self.written[i]
        if not array.flags.writeable:
            raise ValueError(f"{label} has become read-only")
        if _layout(array) != self._layouts[i]:
            raise ValueError(
                f"{label} was resized or reshaped: its shape, strides, dtype and address are "
                f"{_layout(array)}, expected {self._layouts[i]}"
            )


class Spans:
    """The memory that a step writes: sorted, disjoint intervals of addresses."""

    def __init__(self, arrays: Iterable[Array]) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        for start, end in sorted(byte_bounds(array) for array in arrays if array.size):
            if self.ends and start < self.ends[-1]:
                self.ends[-1] = max(end, self.ends[-1])
            else:
                self.starts.append(start)
                self.ends.append(end)

    def touch(self, array: Array) -> bool:
        """Whether an array may lie in any of this memory."""
        start, end = byte_bounds(array)
        before = bisect_left(self.starts, end)
        return array.size > 0 and before > 0 and self.ends[before - 1] > start


def check_written(label: str, array: Any, like: Array | None = None) -> None:
    """Check an array that steps will change in place; `like` has its shape and dtype."""
    _refuse_masked(label, array)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{label} is a {type(array).__name__}; expected a numpy.ndarray")
    if array.dtype not in DTYPES or not array.dtype.isnative:
        order = "" if array.dtype.isnative else " (not the native byte order)"
        raise TypeError(f"{label}: dtype {array.dtype}{order}, expected {SUPPORTED}")
    if like is not None:
        _check_like(label, array, like)
    if not array.flags.writeable:
        raise ValueError(f"{label} is read-only, and a step changes it in place")
    if _may_overlap_itself(array):
        raise ValueError(f"{label}: its elements may share memory (strides {array.strides})")


def check_array(label: str, value: Any, param: Array) -> Array:
    """Check a gradient or a moment against its parameter; return it as an ndarray."""
    _refuse_masked(label, value)
    if isinstance(value, list | tuple | Mapping) or not hasattr(type(value), "__array__"):
        raise TypeError(f"{label} is a {type(value).__name__}; expected a numpy.ndarray")
    try:
        grad = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{label} gives no numpy.ndarray: {error}") from error
    _check_like(label, grad, param)
    return grad.view(param.dtype) if grad.dtype is not param.dtype else grad


def check_separate(arrays: Sequence[tuple[str, Array]]) -> None:
    """Check that no two arrays share memory."""
    spans = sorted(
        ((*byte_bounds(array), label, array) for label, array in arrays if array.size),
        key=lambda span: span[:2],
    )
    open_spans: list[tuple[int, int, str, Array]] = []
    for span in spans:
        open_spans = [other for other in open_spans if other[1] > span[0]]
        for other in open_spans:
            if _share(other[3], span[3]):
                raise ValueError(f"{other[2]} and {span[2]} share memory")
        open_spans.append(span)


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
    """Whether two plain-or-not arrays of one shape have equal steps in memory."""
    if (a.flags.c_contiguous and b.flags.c_contiguous) or (
        a.flags.f_contiguous and b.flags.f_contiguous
    ):
        return True
    return all(
        step_a == step_b or length == 1
        for step_a, step_b, length in zip(a.strides, b.strides, a.shape, strict=True)
    )


def slot(rule: Rule, row: Sequence[Array | None], group: int) -> Slot:
    """A slot of users' arrays: a parameter and its state, if that is the user's, too."""
    param = row[0]
    assert param is not None
    like = param.view(np.ndarray) if is_plain(param) else np.empty_like(param, subok=False)
    plain: list[Any] = []
    copies = []
    for array in row:
        if array is None:
            plain.append(None)
        elif is_plain(array) and same_order(array, like):
            plain.append(array.view(np.ndarray))
        else:
            plain.append(np.empty_like(like))
            copies.append((array, plain[-1]))
    missing = (None,) * (1 + len(rule.states) - len(plain))
    return Slot(plain[0], (*plain[1:], *missing), None, group, tuple(copies))


def state_like(array: Array, number: int, values: Array | float = 0.0) -> Array:
    """A plain array's state of that number, in the order of its memory.

    It begins as far behind a cache line's border as the array, and if large, some lines
    off in a page, so that no store looks like one to what is loaded next: in the cache,
    either can make a step take 1.2 times as long (AVX2). NumPy asks for huge pages for
    what is filled, but not for calloc's zeros.
    """
    unit, shift = (64, 0) if array.nbytes < 65536 else (4096, 1024 * (number + 1))
    memory = np.empty(array.nbytes + unit, np.uint8)
    offset = (_address(array) + shift - _address(memory)) % unit
    strides = np.empty_like(array, subok=False).strides
    state: Array = np.ndarray(array.shape, array.dtype, memory, offset, strides)
    state[...] = values
    return state


def lies_as(array: Array, like: Array) -> bool:
    """Whether an array lies in memory as state of a plain array should."""
    return (
        array.flags.aligned
        and array.flags.writeable
        and same_order(array, like)
        and (_address(array) - _address(like)) % 64 == 0
    )


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _layout(array: Array) -> tuple[Any, ...]:
    return array.shape, array.strides, array.dtype, _address(array)


def _refuse_masked(label: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{label} is a masked array; pass its .data or .filled() values")


def _check_like(label: str, array: Array, param: Array) -> None:
    if array.shape != param.shape:
        raise ValueError(f"{label}: shape {array.shape}, expected {param.shape} as the parameter's")
    if array.dtype != param.dtype:
        raise TypeError(f"{label}: dtype {array.dtype}, expected {param.dtype} as the parameter's")


def _may_overlap_itself(array: Array) -> bool:
    extent = array.itemsize
    for stride, length in sorted(
        (abs(stride), length) for stride, length in zip(array.strides, array.shape, strict=True)
    ):
        if length > 1:
            if stride < extent:
                return array.size > 0
            extent += stride * (length - 1)
    return False


def _share(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # the stub is too narrow
    except np.exceptions.TooHardError:
        return True
