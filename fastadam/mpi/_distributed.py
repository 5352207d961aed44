from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fastadam._arrays import Arrays, Counts
from fastadam._checkpoint import PARAM, Unpacked
from fastadam._codecs import BLOCK as CODE_BLOCK
from fastadam._codecs import INT8
from fastadam._hyper import Clip, Group
from fastadam._rules import SCHEDULE_FREE
from fastadam._slots import Slot, streams_of
from fastadam._state import stream_names
from fastadam._types import Array, ArrayTree, ParamGroups
from fastadam.family.schedule_free import averages_of
from fastadam.mpi import _saving
from fastadam.mpi._base import MpiOptimizer, check_modes
from fastadam.mpi._local import Local
from fastadam.mpi._wholes import Whole, joined_shape
from fastadam.optimizer import Optimizer


class DistributedOptimizer(MpiOptimizer):
    """An optimizer of parameters that are themselves spread over the ranks of an MPI program.

    Each rank owns a part of each array, such as its part of a domain or of an image, and steps that
    by its part of the gradient. No gradients are exchanged. What the ranks share is the norm of
    the whole gradient, for `max_grad_norm` and `skip_nonfinite`, and the check that all of them
    make the same step. Without these two options a step sends one message of 40 bytes.

    `step` is to be called by all ranks. Where one has an error, such as a gradient that does
    not fit, all ranks raise one, before anything is changed.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        This rank's parts, as in `fastadam.Adam`: as many on each rank, with the same keys and
        dtypes. An array's part may have any shape, and no numbers at all. The parts of the ranks,
        one after the other, are the whole array.
    optimizer_class : type
        Such as `fastadam.AdamW`.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; COMM_WORLD if left out. A duplicate is used.
    **options
        Those of `optimizer_class`.

    Raises
    ------
    TypeError, ValueError, KeyError
        An array or an option does not fit on some rank; the message names it.
    RuntimeError
        The ranks call with other arrays or options.

    Notes
    -----
    A part has the bits that it would have in one process that steps the whole array by the same
    gradient, also with ``state_dtype="bfloat16"``, where it is rounded as in its place in the
    whole. With ``"int8"`` that holds if each part but the last has a multiple of 64 numbers, which
    is asked for, and at least 4,096. The norm is the sum of the ranks' sums in their order, so its
    last bits depend on where arrays are cut; they are those of one process for a single array whose
    parts, but for the last, have a multiple of 4,096 numbers.

    `state_dict`, `load_state_dict` and `averaged_params` are of this rank's parts, and not calls of
    all ranks. `AdamWScheduleFree` has its averages alone, and no `eval`.

    `save` writes the whole arrays, as parts that are joined along their first axis, or as vectors
    if they do not fit so; `load` takes from such a file what this rank owns now, whatever the
    number of ranks was. All ranks are to call them.

    Examples
    --------
    A program that ``mpiexec -n 4 python program.py`` would run on four ranks:

    >>> import numpy as np
    >>> import fastadam
    >>> from fastadam.mpi import DistributedOptimizer
    >>> image = np.ones((64, 64))  # this rank's rows
    >>> opt = DistributedOptimizer(image, fastadam.Adam, lr=0.5, max_grad_norm=1.0)
    >>> opt.step(2 * image)
    >>> image[0, 0].round(6), opt.grad_norm  # of all ranks: on one rank
    (np.float64(0.5), 128.0)
    """

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        optimizer_class: type[Optimizer],
        comm: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(params, optimizer_class, comm, {}, options)
        with self._lock.hold():
            self._wholes = self._find_wholes()
            self._ranks.together("DistributedOptimizer", self._place_parts)

    def _form(self, slot: Slot) -> Any:
        return None

    def _hold(self, call: str) -> AbstractContextManager[Any]:
        if call in ("averaged_params", "use_averaged_params"):  # which a rank calls by itself
            return Optimizer._hold(self, call)
        return super()._hold(call)

    def _averages(self, arrays: Arrays) -> list[Array]:
        if self._rule is SCHEDULE_FREE:
            return averages_of(arrays, self.param_groups, self._batch.steps)
        return super()._averages(arrays)

    def _place_parts(self) -> None:
        """Tell the arrays where in the whole they begin, on which rounding depends."""
        slots = []
        for slot, whole in zip(self._batch.arrays.slots, self._wholes, strict=True):
            is_coded = any(state is not None and state.dtype == INT8 for state in slot.state)
            if is_coded and whole.origin % CODE_BLOCK:
                raise ValueError(
                    f"{whole.label} begins at number {whole.origin} of the whole array, but with "
                    f"state_dtype='int8' parts begin at multiples of {CODE_BLOCK}"
                )
            slots.append(slot._replace(origin=whole.origin))
        placed = self._arranged(slots)
        self._replace(self._new_batch(placed, self._counts(), self.param_groups), [])

    def _find_wholes(self) -> list[Whole]:
        slots = self._batch.arrays.slots
        shapes = self._ranks.comm.allgather([slot.param.shape for slot in slots])
        wholes = []
        for i, slot in enumerate(slots):
            parts = [own[i] for own in shapes]
            begin = sum(map(math.prod, parts[: self._ranks.rank]))
            reals = 2 if slot.param.dtype.kind == "c" else 1
            wholes.append(Whole("params" + slot.suffix, joined_shape(parts), begin, reals))
        return wholes

    def _stand_ins(self) -> list[Slot] | None:
        slots = self._held_batch().arrays.slots
        own = [
            [None if stream is None else stream.dtype for stream in streams_of(slot)]
            for slot in slots
        ]
        stand_ins = []
        of_all = self._ranks.comm.allgather(
            [slot.param.size and own[i] for i, slot in enumerate(slots)]
        )
        for i, (slot, whole) in enumerate(zip(slots, self._wholes, strict=True)):
            ways = [ranks[i] for ranks in of_all if ranks[i]] or [own[i]]
            if any(way != ways[0] for way in ways):
                raise ValueError(
                    f"{whole.label} has state in 8 bits on some ranks and not on others: with "
                    "state_dtype='int8' it can be saved if each part has at least 4,096 numbers"
                )
            *state, average, rest = [
                None
                if dtype is None
                else _saving.stand_in(whole.shape_of(dtype, slot.param), dtype)
                for dtype in ways[0]
            ]
            stand_ins.append(slot._replace(state=tuple(state), average=average, rest=rest))
        return None if self._ranks.rank else stand_ins

    def _whole_params(self, found: list[Array]) -> list[Array]:
        pairs = zip(self._wholes, found, strict=True)
        return [_saving.stand_in(whole.shape, part.dtype) for whole, part in pairs]

    def _parts(self, found: list[Array] | None) -> Iterator[_saving.Part]:
        for i, (slot, whole) in enumerate(
            zip(self._held_batch().arrays.slots, self._wholes, strict=True)
        ):
            names = stream_names(self._rule, slot.param)
            streams = streams_of(slot)
            if found is not None:
                names, streams = [PARAM, *names], [found[i], *streams]
            yield from _saving.named(i, names, streams, whole.origin)

    def _unpacked(
        self, header: dict[str, Any], found: dict[str, Array], generators: list[Any] | None
    ) -> Unpacked:
        """What a file says of this rank's parts."""
        unpacked = super()._unpacked(header, found, generators)
        slots, state, params = self._batch.arrays.slots, {}, []
        for i, (slot, whole) in enumerate(zip(slots, self._wholes, strict=True)):
            state[slot.key] = {
                name: whole.cut(name, value, slot.param) if isinstance(value, np.ndarray) else value
                for name, value in unpacked.state_dict["state"][slot.key].items()
            }
            if unpacked.params is not None:
                params.append(whole.cut("param", unpacked.params[i], slot.param))
        return unpacked._replace(
            state_dict={**unpacked.state_dict, "state": state},
            params=params if unpacked.params is not None else None,
        )

    def _new_batch(self, arrays: Arrays, counts: Counts, groups: Sequence[Group]) -> Local:
        check_modes(groups)
        unmeasured = Clip(self._clip.max_grad_norm, False, False)
        return Local(
            self._ranks,
            self._backend,
            arrays,
            self._backend.Batch(arrays, counts, self._lock, unmeasured),
            self._lock,
            self._clip,
            counts.skipped,
            counts.grad_norm,
        )
