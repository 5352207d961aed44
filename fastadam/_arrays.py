"""The arrays that are stepped together, and their gradients made plain.

A gradient that a backend can walk along its parameter, and that no step writes, is taken as it
is. Any other that fits is copied into a plain one; see _slots.py for the word.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastadam import _hyper, _rows, _tree
from fastadam._checks import check_grad, is_stepped_in_float32, real_numbers
from fastadam._codecs import BLOCK as CODE_BLOCK
from fastadam._codecs import INT8
from fastadam._rows import Rows, SumRows
from fastadam._rules import Rule
from fastadam._slots import Slot, Watched, layout_of, owner_of, same_order, watched
from fastadam._types import Array


class Counts(NamedTuple):
    """Finished steps of each array and of all, and skipped ones."""

    steps: list[int]
    numbers: list[tuple[float, ...]]  # of each array: those that the rule names
    finished: int = 0
    skipped: int = 0
    grad_norm: float = math.nan  # of the last step


class Written(NamedTuple):
    """An array of the user's that steps write."""

    label: str  # what messages call it
    user: Array
    view: Array  # of it, as it was when it was checked


class Arrays:
    """The arrays that are stepped together: plain, and matched with gradients at each step.

    Parameters
    ----------
    rule : Rule
    spec : nesting of lists and dicts
        Where each array's gradient is found.
    names : (str, str)
        What messages call the parameters and the gradients; slots have what distinguishes them.
    slots : sequence of Slot
    written : sequence of Written
        The parameters, in the order of the slots, and then whatever else is the user's.
    n_groups : int
        How many param groups there are; some may have no arrays.
    grouped : bool
        Whether the spec is a list with one entry for each group.
    in_groups : bool
        Whether the param groups have the parameters in them, and must keep them.
    ema_decay : float, optional
        Of the slots' averages.
    nest : nesting of arrays, optional
        The user's dicts and lists, in which the parameters must stay; for param groups a list
        with what each has.
    """

    def __init__(
        self,
        rule: Rule,
        spec: _tree.Spec,
        names: tuple[str, str],
        slots: Sequence[Slot],
        written: Sequence[Written],
        n_groups: int = 1,
        grouped: bool = False,
        in_groups: bool = True,
        ema_decay: float | None = None,
        nest: Any = None,
    ) -> None:
        self.rule = rule
        self.spec = spec
        self.nest = nest
        self.names = names
        self.slots = slots
        self.written = written
        self.params = [slot.user for slot in slots]
        self.grouped = grouped
        self.in_groups = in_groups
        self.spans = Spans([array.view for array in written])
        members: list[list[Slot]] = [[] for _ in range(n_groups)]
        for slot in slots:
            members[slot.group].append(slot)
        self.traits = [
            _hyper.Traits(
                options=rule.options,
                float32=any(is_stepped_in_float32(slot.param.dtype) for slot in group),
                params=tuple(slot.user for slot in group) if in_groups else None,
                lacking=tuple(
                    rule.asked[name]
                    for k, name in enumerate(rule.states)
                    if name in rule.asked and any(slot.state[k] is None for slot in group)
                ),
                ema_decay=ema_decay or 0.0,
                state_dtypes=(group[0].state_dtype,) if group else _hyper.STATE_DTYPES,
            )
            for group in members
        ]
        self._staged: dict[int, Array] = {}
        self._records: list[Watched] | None = None

    @property
    def _watched(self) -> list[Watched]:
        # A cached_property of Python 3.11 has a lock, which in a forked process may be another
        # thread's that is not there.
        if self._records is None:
            self._records = [watched(array.user, array.view) for array in self.written]
        return self._records

    @property
    def specs(self) -> list[_tree.Spec]:
        """The specs of the groups."""
        return list(self.spec) if self.grouped else [self.spec]

    @property
    def nests(self) -> list[Any]:
        """What the groups have as their parameters, nested as the user did."""
        return list(self.nest) if self.grouped else [self.nest]

    def name(self, i: int) -> str:
        """What messages call a gradient."""
        return self.names[1] + self.slots[i].suffix

    def plain_gradients(
        self, grads: Any, weight_decays: Sequence[float], sum_rows: SumRows
    ) -> list[Array | Rows | None]:
        """The gradients, in the order of the slots, checked and plain.

        Raises
        ------
        TypeError, ValueError, KeyError
            The nesting, a shape, a dtype or a kind of array does not fit.
        """
        plain = self.leaves(grads)
        self.check_nest(plain)
        n_checked = len(plain)
        for i, grad in enumerate(plain):
            if grad is not None and not self._fits(i, grad):
                decay = weight_decays[self.slots[i].group]
                plain[i] = self.plain_gradient(i, grad, decay, sum_rows)
                n_checked = 0  # that may have run other people's code
        if not n_checked:
            self.check_nest(plain)
        for i in range(n_checked, len(self.written)):
            if i >= len(plain) or plain[i] is not None:
                self.check_param(i)
        return plain

    def _fits(self, i: int, grad: Any) -> bool:
        """Whether a gradient can be taken as it is; False, too, where that is not seen at once."""
        like = self.slots[i].param
        return (
            type(grad) is np.ndarray
            and grad.dtype == self.slots[i].view.dtype
            and grad.shape == like.shape
            and grad.strides == like.strides
            and grad.flags.aligned
            and not self.spans.touch(grad)
            and self._watched[i].is_as_made()
        )

    def leaves(self, grads: Any) -> list[Any]:
        """The gradients, in the order of the slots, as they are."""
        if grads is None:
            raise TypeError(
                f"{self.names[1]} is None; did the function that computes it forget to return it?"
            )
        leaves: list[Any] = []
        if not _tree.take(self.spec, grads, leaves):
            leaves = list(_tree.flatten(self.spec, grads, self.names[1]))
        return leaves

    def plain_gradient(
        self, i: int, grad: Any, weight_decay: float, sum_rows: SumRows
    ) -> Array | Rows | None:
        """A gradient, checked and plain."""
        if grad is None:
            return None
        self.check_param(i)
        if isinstance(grad, _rows.RowGrad) or _rows.is_sparse(grad):
            self._check_rows_alone(i, grad, weight_decay)
            rows = _rows.read(self.name(i), grad, self.slots[i].param, sum_rows)
            self._check_whole_blocks(i, rows)
            return self._apart(rows)
        return self._plain(i, check_grad(self.name(i), grad, self.slots[i].param))

    def check_nest(self, grads: Sequence[Any] | None = None) -> None:
        """Check that the user put no other array into a dict or list in place of a parameter.

        With the gradients of a step, those of None allow it: their arrays are not stepped.
        """
        leaves: list[Any] = []
        if self.nest is None or (
            _tree.take(self.spec, self.nest, leaves) and all(map(is_, leaves, self.params))
        ):
            return
        for i, found in _tree.present(self.spec, self.nest):
            user, is_array = self.slots[i].user, isinstance(found, np.ndarray)
            if found is user or (is_array and _may_be_same(found, user)):
                continue
            if grads is not None and grads[i] is None:
                continue
            name = self.names[0] + self.slots[i].suffix
            other = "another array" if is_array else f"{found!r:.40}"
            for slot in self.slots:
                if found is slot.user:
                    other = f"what was {self.names[0]}{slot.suffix}"
            raise ValueError(
                f"{name} was replaced by {other}, but steps change the array that the optimizer "
                f"was made with. Where it is replaced, write into it instead: {name}[...] = values"
            )

    def check_groups(self, groups: Sequence[_hyper.Group]) -> list[_hyper.Hyper]:
        """The groups' hyper-parameters, checked."""
        self.check_number(groups)
        hypers = []
        for group, traits in zip(list(groups), self.traits, strict=True):
            hypers.append(_hyper.check_options(group, traits))
            _hyper.check_params(group, traits)
        self.check_number(groups)  # what was read may have taken some away
        return hypers

    def check_number(self, groups: Sequence[_hyper.Group]) -> None:
        """Check that the user added and removed no group."""
        if len(groups) != len(self.traits):
            raise ValueError(
                f"param_groups has {len(groups)} entries, expected {len(self.traits)}; "
                "use add_param_group"
            )

    def check_written(self) -> None:
        """Check that all that a step writes lies and looks as it did, and may be written."""
        for i in range(len(self.written)):
            self.check_param(i)

    def check_param(self, i: int) -> None:
        """Check one of the arrays that a step writes; the parameters come first."""
        if self._watched[i].is_as_made():
            return
        label, array, view = self.written[i]
        found, expected = layout_of(array), layout_of(view)
        if not array.flags.writeable:
            raise ValueError(f"{label} has become read-only; make it writable again")
        if found != expected:
            raise ValueError(
                f"{label} was resized or reshaped: its shape, strides, dtype and address are "
                f"{found}, expected {expected}. Undo that, or make a new optimizer"
            )

    def _check_rows_alone(self, i: int, grad: Any, weight_decay: float) -> None:
        """Check that a step of some rows or elements leaves the others alone."""
        is_rows = isinstance(grad, _rows.RowGrad)
        found, others = ("RowGrad", "rows") if is_rows else ("sparse array", "elements")
        label = f"{self.name(i)} is a {found}, which leaves other {others} alone"
        if self.rule.needs_all_rows:
            raise ValueError(f"{label}, but {self.rule.needs_all_rows}; give a dense gradient")
        if weight_decay != 0:
            where = "put the parameter into a param group with" if self.in_groups else "pass"
            raise ValueError(
                f"{label}, but weight_decay={weight_decay} would change them; {where} "
                "weight_decay=0"
            )
        if self.slots[i].average is not None:
            raise ValueError(
                f"{label}, but ema_decay would change their average; make the optimizer without "
                "ema_decay, or give a dense gradient"
            )

    def _check_whole_blocks(self, i: int, grad: Rows) -> None:
        """Check that a step of some rows or elements encodes no others anew, in 8 bits."""
        slot = self.slots[i]
        if not any(state is not None and state.dtype == INT8 for state in slot.state):
            return
        width = grad.values.shape[1] * real_numbers(slot.param) // max(slot.param.size, 1)
        if grad.elements or width % CODE_BLOCK:
            found = "single elements" if grad.elements else f"rows of {width} numbers"
            raise ValueError(
                f"{self.name(i)} is for {found}, but state_dtype='int8' stores blocks of "
                f"{CODE_BLOCK}, of which a step must not change a part; put the parameter into a "
                "param group with state_dtype='bfloat16' or None"
            )

    def _apart(self, grad: Rows) -> Rows:
        return grad._replace(values=grad.values.copy()) if self.spans.touch(grad.values) else grad

    def _plain(self, i: int, grad: Array) -> Array:
        like = self.slots[i].param
        if grad.flags.aligned and same_order(grad, like) and not self.spans.touch(grad):
            return grad
        if i not in self._staged or self._staged[i].dtype != grad.dtype:
            self._staged[i] = np.empty_like(like, grad.dtype)
        np.copyto(self._staged[i], grad)
        return self._staged[i]


def _may_be_same(found: Array, user: Array) -> bool:
    """Whether steps that change the one are seen in the other, such as a view."""
    return not user.size or np.may_share_memory(found, user)


class Spans:
    """The memory that a step writes: sorted, disjoint intervals of addresses."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        #: The arrays that own the memory, by their ids; None is among them if one is not known.
        self._owners = {id(owner): owner for owner in map(owner_of, arrays)}
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
        owner = owner_of(array)
        if owner is not None and id(None) not in self._owners and id(owner) not in self._owners:
            return False  # without its address, which takes as long as four additions
        start, end = byte_bounds(array)
        before = bisect_left(self.starts, end)
        return array.size > 0 and before > 0 and self.ends[before - 1] > start
