from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fastadam import _files, _groups
from fastadam._accumulate import Sums
from fastadam._arrays import Arrays, Counts
from fastadam._average import moving_averages
from fastadam._checkpoint import PARAM
from fastadam._codecs import BLOCK as CODE_BLOCK
from fastadam._codecs import INT8, codes_of, numbers_of
from fastadam._hyper import Group, flag
from fastadam._rows import RowGrad
from fastadam._rules import SCHEDULE_FREE
from fastadam._slots import Slot, flat, goes_along, rest_like, state_like, streams_of
from fastadam._state import Adopts, read_state, stream_names, write_state
from fastadam._types import Array, ArrayTree, GradTree, ParamGroups
from fastadam.family.schedule_free import average_of
from fastadam.mpi import _saving
from fastadam.mpi._base import MpiOptimizer, check_modes
from fastadam.mpi._cuts import Segment
from fastadam.mpi._shares import Shares, refuse_rows
from fastadam.optimizer import Optimizer


class ZeroRedundancyOptimizer(MpiOptimizer):
    """An optimizer whose state is spread over the processes of an MPI program.

    Every rank has all parameters, and gradients of its own part of the data. A step adds the
    gradients up, so that each rank gets the sum of its share; steps that share, of which it alone
    keeps the state; and sends what came out to all. So the state of a rank is 1/N of the whole, and
    as many bytes are sent as if gradients were averaged by an all-reduce.

    All methods that step, load, save or show state are to be called by all ranks, in the same
    order. Where one rank has an error, such as a gradient that does not fit, all ranks raise
    one, before anything is changed.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        As in `fastadam.Adam`; of the same shapes and dtypes on all ranks, with the same numbers.
    optimizer_class : type
        Such as `fastadam.AdamW`.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; COMM_WORLD if left out. A duplicate is used.
    average : bool, optional
        Whether gradients are averaged over the ranks; else they are summed.
    deterministic : bool, optional
        Add the gradients up in the order of the ranks. Else MPI decides about the order, which may
        change with the number of ranks and where they run, and with it the last bits of the sum.
    bucket_bytes : int, optional
        How many bytes of gradients are sent at a time, about; at least 16,384 for each rank. If
        left out, 4 MiB, or for more than 16 ranks 256 KiB for each.
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
    The parameters are the same on all ranks after each step, to the bit. For the same averaged
    gradients they have the bits of one process, whatever the number of ranks, also with clipping,
    for which norms are summed in the order of one process, and with moments in fewer bits.
    Gradients in half precision are added up in float32.

    An array is stepped if any rank has a gradient of it; where a rank has None, that counts as
    zero. A step with a NaN on one rank is left out on all, with `skip_nonfinite`. `accumulate` sums
    what this rank got; the step exchanges the means. `averaged_params` and `use_averaged_params`
    are to be called by all ranks. `AdamWScheduleFree` has these alone, and no `eval`.

    Besides its share of the state, a rank has four buckets of memory, and with `max_grad_norm` or
    `skip_nonfinite` its share of the gradients.

    References
    ----------
    Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
    arXiv:1910.02054, stage 1; ``torch.distributed.optim.ZeroRedundancyOptimizer``.

    Examples
    --------
    A program that ``mpiexec -n 4 python program.py`` would run on four ranks:

    >>> import numpy as np
    >>> import fastadam
    >>> from fastadam.mpi import ZeroRedundancyOptimizer
    >>> w = np.ones(3)
    >>> opt = ZeroRedundancyOptimizer(w, fastadam.AdamW, lr=0.5, weight_decay=0.0)
    >>> opt.step(np.array([1.0, -1.0, 0.0]))  # the gradient of this rank's data
    >>> w
    array([0.5, 1.5, 1. ])
    """

    _has_state = False

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        optimizer_class: type[Optimizer],
        comm: Any = None,
        *,
        average: bool = True,
        deterministic: bool = False,
        bucket_bytes: int | None = None,
        **options: Any,
    ) -> None:
        exchange = {
            "average": (flag, average),
            "deterministic": (flag, deterministic),
            "bucket_bytes": (_check_bytes, bucket_bytes),
        }
        super().__init__(params, optimizer_class, comm, exchange, options)

    def _form(self, slot: Slot) -> Any:
        return slot.user.shape, slot.param.strides

    def _new_batch(self, arrays: Arrays, counts: Counts, groups: Sequence[Group]) -> Shares:
        """The shares of all ranks, with new state, or that of slots that have some."""
        check_modes(groups)

        def make_state(bare: Slot, segment: Segment) -> Slot:
            whole = arrays.slots[segment.array]
            if all(stream is None for stream in streams_of(whole)):
                return _groups.with_new_state(
                    self._rule, bare, groups[whole.group], self._ema_decay
                )
            return part_of(whole, bare, segment)

        shares = Shares(
            self._ranks,
            self._backend,
            arrays,
            counts,
            self._lock,
            self._clip,
            make_state,
            ema_decay=self._ema_decay,
            **self._settings,
        )
        # What state there is, and so what can be switched on, the bare slots do not show.
        asked = self._rule.asked
        arrays.traits = [
            traits._replace(lacking=tuple(key for key in asked.values() if not group[key]))
            for traits, group in zip(arrays.traits, groups, strict=True)
        ]
        arrays.slots = [
            slot._replace(state=(None,) * len(slot.state), average=None, rest=None)
            for slot in arrays.slots
        ]
        return shares

    @property
    def state_bytes(self) -> int:
        """How many bytes the arrays of this rank's state take.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> from fastadam.mpi import ZeroRedundancyOptimizer
        >>> w = np.zeros(1_000_000, np.float32)
        >>> ZeroRedundancyOptimizer(w, fastadam.Adam).state_bytes  # on one rank
        8000000
        """
        bytes_of: int = self._batch.state_bytes()
        return bytes_of

    def _sums_with(self, grads: GradTree, sums: Sums | None, arrays: Arrays) -> Sums:
        new = super()._sums_with(grads, sums, arrays)
        for i, total in new.items():
            if isinstance(total, RowGrad):
                refuse_rows(arrays, i)
        return new

    def _averages(self, arrays: Arrays) -> list[Array]:
        none = [None] * len(self._rule.states)

        def pieces() -> Any:
            if self._rule is SCHEDULE_FREE:
                beta1s = [hyper.beta1 for hyper in arrays.check_groups(self.param_groups)]
                steps = self._batch.steps
                return self._batch.pieces(
                    lambda part: [
                        *none,
                        average_of(part, beta1s[part.group] if steps[part.key] else None),
                        None,
                    ]
                )
            if self._ema_decay is None:
                moving_averages(arrays)  # says that there are none
            return self._batch.pieces(lambda part: [*none, part.average, None])

        found = self._ranks.together("averaged_params", pieces)
        slots = [self._batch.whole(i, own, None) for i, own in enumerate(found)]
        return [
            slot.average if slot.average is not None else numbers_of(slot.user) for slot in slots
        ]

    def _averages_to_use(self, arrays: Arrays) -> list[Array]:
        def check() -> None:
            arrays.check_nest()
            arrays.check_written()

        self._ranks.together("use_averaged_params", check)
        return self._averages(arrays)

    def state_dict(self, *, decoded: bool = False, to: int | None = None) -> Any:
        """A copy of the state of all ranks, step counts and options, as in `Adam.state_dict`.

        Parameters
        ----------
        decoded : bool, optional
            As there.
        to : int, optional
            The rank that gets it, while the others get None. If left out, all ranks get it.

        Returns
        -------
        dict or None
            One that loads into `optimizer_class` on one machine, too, or on any number of ranks.

        Raises
        ------
        RuntimeError
            The ranks do not all call this.
        ValueError
            There is no such rank, or groups were added to `param_groups` on some rank.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> from fastadam.mpi import ZeroRedundancyOptimizer
        >>> opt = ZeroRedundancyOptimizer(np.ones(2), fastadam.Adam)
        >>> opt.step(np.ones(2))
        >>> opt.state_dict()["state"][0]["exp_avg"]
        array([0.1, 0.1])
        """
        with self._hold("state_dict"):
            batch = self._held_batch()

            def begin() -> Any:
                if to is not None and not 0 <= to < self._ranks.size:
                    raise ValueError(f"to is {to}, but the ranks are 0 to {self._ranks.size - 1}")
                batch.arrays.check_number(self.param_groups)
                return batch.pieces(streams_of)

            pieces = self._ranks.together("state_dict", begin, [decoded, to])
            slots = [batch.whole(i, own, to) for i, own in enumerate(pieces)]
            if to not in (None, self._ranks.rank):
                return None
            return write_state(self._arranged(slots), self._counts(), self.param_groups, decoded)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state, step counts and options; see `Adam.load_state_dict`.

        Parameters
        ----------
        state_dict : dict
            The same on all ranks, of any number of ranks or of one machine. Each rank copies its
            share.

        Raises
        ------
        TypeError, ValueError, KeyError
            It does not fit on some rank; nothing was changed on any.

        Examples
        --------
        See `state_dict`.
        """
        with self._hold("load_state_dict"):
            self._put_in_place("load_state_dict", lambda: self._loaded(state_dict))

    def _loaded(
        self,
        state_dict: Mapping[str, Any],
        adopts: Adopts | None = None,
        changes: Sequence[Callable[[], object]] = (),
        params: Sequence[Array] | None = None,
    ) -> tuple[Any, list[Callable[[], object]]]:
        # The slots have no state, but what reads a state dict asks them what there is to be.
        arrays = self._held_batch().arrays
        has_average = self._ema_decay is not None
        expecting = [
            slot._replace(average=slot.param if has_average else None, rest=rest_like(slot.param))
            for slot in arrays.slots
        ]
        whole = self._arranged(expecting)
        whole.traits = arrays.traits

        def is_source(array: Array, param: Array, number: int) -> bool:
            return goes_along(array, param)  # wherever it lies, shares are copied from it

        groups, fixed = self.param_groups, self._fixed
        loaded = read_state(whole, state_dict, groups, fixed, is_source, params)
        new = self._arranged(loaded.slots)
        batch = self._new_batch(new, loaded.counts, loaded.groups)
        pairs = zip(groups, loaded.groups, strict=True)
        updates = [partial(dict.update, group, new) for group, new in pairs]
        return batch, [*changes, *updates]

    def _stand_ins(self) -> list[Slot] | None:
        slots: list[Slot] | None = self._batch.stand_ins()
        return slots

    def _whole_params(self, found: list[Array]) -> list[Array]:
        return found

    def _parts(self, found: list[Array] | None) -> Iterator[_saving.Part]:
        batch, ranks = self._held_batch(), self._ranks
        pieces = batch.pieces(streams_of)
        for i, whole in enumerate(batch.arrays.slots):
            if found is not None:
                param = _files.little(found[i]).reshape(-1)
                first = len(param) * ranks.rank // ranks.size
                stop = len(param) * (ranks.rank + 1) // ranks.size
                yield _saving.Part(i, PARAM, first * param.itemsize, param[first:stop])
            names = stream_names(self._rule, whole.param)
            if whole.param.flags.c_contiguous:
                for segment, streams in pieces[i]:
                    yield from _saving.named(i, names, streams, segment.start)
            else:  # one rank puts it into the order of files
                joined = batch.whole(i, pieces[i], i % ranks.size)
                if joined is not None:
                    yield from _saving.named(i, names, streams_of(joined), 0)

    def check_synced(self) -> None:
        """Check that all ranks have the same numbers in their parameters.

        Raises
        ------
        RuntimeError
            They have not; the message names the first array and the ranks that differ from rank 0.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> from fastadam.mpi import ZeroRedundancyOptimizer
        >>> ZeroRedundancyOptimizer(np.ones(3), fastadam.Adam).check_synced()
        """
        from hashlib import blake2b

        arrays = self._batch.arrays
        self._ranks.agree("check_synced", None)
        own = [
            blake2b(_saving.bytes_of(codes_of(slot.view)).data).digest() for slot in arrays.slots
        ]
        found = self._ranks.comm.allgather(own)
        for i, slot in enumerate(arrays.slots):
            others = [rank for rank, digests in enumerate(found) if digests[i] != found[0][i]]
            if others:
                raise RuntimeError(
                    f"params{slot.suffix} has not the same numbers on rank 0 and on "
                    f"{'rank' if len(others) == 1 else 'ranks'} {', '.join(map(str, others))}"
                )


def _check_bytes(name: str, value: Any) -> int | None:
    """Check how many bytes are to be sent at a time."""
    if value is None:
        return None
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, found {type(value).__name__}")
    if value < 1:
        raise ValueError(f"Invalid {name}: {value}; expected at least 1")
    return int(value)


def part_of(whole: Slot, bare: Slot, segment: Segment) -> Slot:
    """The slot of a segment with copies of what the whole array's slot has of its state."""

    def cut(stream: Array | None, number: int) -> Array | None:
        if stream is None:
            return None
        vector = flat(stream)
        if stream.dtype == INT8:
            vector = vector[segment.start // CODE_BLOCK : -(-segment.stop // CODE_BLOCK)]
        else:
            vector = vector[segment.start : segment.stop]
        return state_like(bare.param, number, vector)

    n = len(whole.state)
    return bare._replace(
        state=tuple(cut(state, k) for k, state in enumerate(whole.state)),
        average=cut(whole.average, n),
        rest=cut(whole.rest, n + 1),
        state_dtype=whole.state_dtype,
    )
