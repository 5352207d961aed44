from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam import _groups
from fastadam._arrays import Arrays, Counts
from fastadam._codecs import BLOCK as CODE_BLOCK
from fastadam._codecs import INT8
from fastadam._hyper import Clip, Group
from fastadam._slots import Slot, flat
from fastadam._types import ArrayTree, ParamGroups
from fastadam.mpi._base import MpiOptimizer
from fastadam.mpi._local import Local
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

    State, and so `state_dict`, `save` and `load`, is that of this rank's parts: give each rank a
    file of its own.

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
            error = None
            try:
                self._place_parts()
            except Exception as caught:
                error = caught
            self._ranks.agree("DistributedOptimizer", error)

    def _form(self, slot: Slot) -> Any:
        return None

    def _place_parts(self) -> None:
        """Tell the arrays where in the whole they begin, on which rounding depends."""
        batch = self._batch
        sizes = np.array([flat(slot.param).size for slot in batch.arrays.slots], np.int64)
        all_sizes = np.empty((self._ranks.size, len(sizes)), np.int64)
        self._ranks.comm.Allgather(sizes, all_sizes)
        begins = all_sizes[: self._ranks.rank].sum(axis=0)
        slots = []
        for slot, begin in zip(batch.arrays.slots, begins.tolist(), strict=True):
            is_coded = any(state is not None and state.dtype == INT8 for state in slot.state)
            if is_coded and begin % CODE_BLOCK:
                raise ValueError(
                    f"params{slot.suffix} begins at number {begin} of the whole array, but with "
                    f"state_dtype='int8' parts begin at multiples of {CODE_BLOCK}"
                )
            slots.append(slot._replace(origin=begin))
        arrays = batch.arrays
        placed = _groups.arranged(
            self._rule, arrays.specs, arrays.nests, slots, self._ema_decay, arrays.grouped
        )
        self._replace(self._new_batch(placed, self._counts(), self.param_groups), [])

    def _new_batch(self, arrays: Arrays, counts: Counts, groups: Sequence[Group]) -> Local:
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
