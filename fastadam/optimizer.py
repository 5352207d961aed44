"""What all optimizers share: groups, steps, state."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar, NoReturn

from fastadam import _backend, _checkpoint, _files, _generators, _groups, _hyper, _tree
from fastadam._accumulate import ACCUMULATED, Sums
from fastadam._arrays import Arrays, Counts
from fastadam._average import Averaged, copies_of_averages, moving_averages
from fastadam._codecs import codes_of
from fastadam._guard import NOTHING_KEPT, at_once
from fastadam._hyper import Group, Schedule
from fastadam._quiet import quietly
from fastadam._rules import Rule
from fastadam._slots import lies_as_state, restored, slot
from fastadam._state import Adopts, copied, read_state, write_state
from fastadam._types import Array, GradTree

_REMADE = ("_backend", "_lock", "_batch")
_ATTRIBUTES = {
    "defaults", "param_groups", "lr", "_clip", "_ema_decay", "_backend", "_lock", "_batch"
}  # fmt: skip


class Optimizer:
    """What all optimizers share; see `Adam`."""

    param_groups: list[Group]
    _rule: ClassVar[Rule]
    _fixed: ClassVar[Group] = {}  # options that a loaded state dict does not change
    _has_state: ClassVar[bool] = True  # whether all of it lies in the arrays' slots
    #: The arrays with their state and counts, and the sums of accumulated gradients; of
    #: `_backend`. All of that changes in one assignment, when another batch takes its place.
    _batch: Any

    def __init__(
        self,
        params: Any,
        options: Group,
        max_grad_norm: float | None,
        skip_nonfinite: bool,
        ema_decay: float | None,
    ) -> None:
        self.defaults = options
        _hyper.check_options(options, _hyper.Traits(self._rule.options, float32=False))
        self._clip = _hyper.check_clip(max_grad_norm, skip_nonfinite)
        self._ema_decay = _hyper.check_ema_decay(ema_decay)
        self.param_groups = []
        self._backend = _backend.module()
        self._lock = self._backend.Lock()
        self._batch = None
        grouped = _groups.are_groups(params)
        self._add(params if grouped else [{"params": params}], grouped)

    def step(self, grads: GradTree = ACCUMULATED, *, loss_scale: float = 1.0) -> None:
        """Change the parameters by one step against their gradients.

        Parameters
        ----------
        grads : ndarray, or nesting of ndarray as the parameters'
            Gradients, of the parameters' shapes and dtypes; where a parameter is float32,
            float16 or bfloat16, its gradient may be any of these. With param groups a
            list with one entry for each group. None in place of a gradient
            skips that array and its step count; a `RowGrad` or a ``scipy.sparse`` array
            of the parameter's shape steps a part of it. A complex gradient is the derivative by
            the real part plus i times that by the imaginary part, as in torch; autograd and
            JAX give its conjugate. Gradients are only read and may be in any memory layout. If
            left out, the step goes against the mean of the gradients that `accumulate` got.
        loss_scale : float, optional
            Gradients are divided by it.

        Raises
        ------
        TypeError, ValueError, KeyError
            A gradient or an edited option does not fit, `grads` as a whole is None, or
            a parameter was replaced, resized or made read-only; the message names it.
            No parameter, state or step count was changed.

        Notes
        -----
        Threads that step one optimizer at once take turns.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> w = np.array([1.0, 2.0], dtype=np.float32)
        >>> opt = fastadam.Adam(w, lr=0.5)
        >>> opt.step(np.array([10.0, -10.0], dtype=np.float32))
        >>> w
        array([0.5, 2.5], dtype=float32)
        """
        if grads is ACCUMULATED:
            self._step_mean(loss_scale)
            return
        while not self._batch.step(grads, self.param_groups, loss_scale):
            pass  # another thread replaced the batch, by loading a state dict, say

    def accumulate(self, grads: GradTree) -> None:
        """Keep gradients for the next step, which will go against their mean.

        Parameters
        ----------
        grads : ndarray, or nesting of ndarray as the parameters'
            As in `step`, but ``scipy.sparse`` arrays are refused; they are copied. An array
            that got None every time is skipped, otherwise None counts as zero.

        Raises
        ------
        TypeError, ValueError, KeyError
            A gradient does not fit, or `grads` as a whole is None; nothing of it was
            kept.

        Notes
        -----
        The mean is the sum divided by the number of gradients, so it is infinite where the
        sum overflows. `load` and `load_state_dict` drop what was kept. Until then `step` takes no
        gradients of its own.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> w = np.zeros(2)
        >>> opt = fastadam.SGD(w, lr=1.0)
        >>> for g in ([1.0, 2.0], [3.0, 4.0]):
        ...     opt.accumulate(np.array(g))
        >>> opt.step()
        >>> w
        array([-2., -3.])
        """
        with self._lock.hold():
            batch = self._held_batch()
            batch.sums = self._sums_with(grads, batch.sums, batch.arrays)

    def _sums_with(self, grads: GradTree, sums: Sums | None, arrays: Arrays) -> Sums:
        sum_rows = self._backend.sum_rows
        decays = [hyper.weight_decay for hyper in arrays.check_groups(self.param_groups)]
        plain = arrays.plain_gradients(grads, decays, sum_rows)
        return quietly((Sums() if sums is None else sums).plus, plain, arrays, sum_rows)

    def _held_batch(self) -> Any:
        """The batch, for who holds the lock, or an error if it must not be used now."""
        if self._lock.refusal:
            raise RuntimeError(self._lock.refusal)
        return self._batch

    def _step_mean(self, loss_scale: float) -> None:
        with self._hold("step"):
            batch = self._held_batch()
            if batch.sums is None:
                self._refuse_step(ValueError(NOTHING_KEPT))
            means = quietly(batch.sums.means, len(batch.arrays.slots))
            grads = _tree.build(batch.arrays.spec, means)
            before = batch.finished + batch.skipped
            try:
                batch.step_held(grads, self.param_groups, loss_scale)
            finally:  # also where Ctrl-C came during the step, which was done all the same
                if batch.finished + batch.skipped != before:
                    batch.sums = None  # no call, at whose end a signal could come

    def _refuse_step(self, error: Exception) -> NoReturn:
        raise error

    def averaged_params(self) -> Any:
        """The moving average of the parameters, with `ema_decay`; `AdamWScheduleFree` has its own.

        After each step of an array, ``average = ema_decay*average + (1 - ema_decay)*param``.
        It begins with the parameter's values when the optimizer was made, and there is no
        bias correction: after few steps it is still near those.

        Returns
        -------
        ndarray or nesting of ndarray
            Copies, nested as the parameters (lists in place of tuples; for groups, a
            list with an entry for each). Those of float16 and bfloat16 parameters are float32.

        Raises
        ------
        ValueError
            The optimizer was made without `ema_decay`.

        References
        ----------
        Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> w = np.zeros(1)
        >>> opt = fastadam.SGD(w, lr=1.0, ema_decay=0.5)
        >>> opt.step(np.array([-1.0]))
        >>> w, opt.averaged_params()
        (array([1.]), array([0.5]))
        """
        with self._hold("averaged_params"):
            arrays = self._held_batch().arrays
            return copies_of_averages(arrays, self._averages(arrays))

    def use_averaged_params(self) -> AbstractContextManager[None]:
        """Put the moving averages into the parameters for the time of a `with` block.

        At the end of the block the parameters get back the values that they had, even if
        Ctrl-C ends it. Within the block the optimizer must not be used.

        Raises
        ------
        ValueError
            The optimizer was made without `ema_decay`, or a parameter has become read-only or
            was resized.
        RuntimeError
            The optimizer was used within the block.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> w = np.zeros(1)
        >>> opt = fastadam.SGD(w, lr=1.0, ema_decay=0.5)
        >>> opt.step(np.array([-1.0]))
        >>> with opt.use_averaged_params():
        ...     print(w)
        [0.5]
        >>> w
        array([1.])
        """
        return Averaged(
            self._lock,
            partial(self._hold, "use_averaged_params"),
            lambda: self._held_batch().arrays,
            self._averages_to_use,
        )

    def _averages(self, arrays: Arrays) -> list[Array]:
        """The averages of the parameters, for who holds the lock."""
        return moving_averages(arrays)

    def _averages_to_use(self, arrays: Arrays) -> list[Array]:
        """The same for who will put them in the place of the parameters."""
        return self._averages(arrays)

    def _hold(self, call: str) -> AbstractContextManager[Any]:
        """What to take with ``with`` in this call, or an error if nobody may have the lock now."""
        held: AbstractContextManager[Any] = self._lock.hold()
        return held

    @property
    def grad_norm(self) -> float | None:
        """The global L2 norm of the last step's gradients, divided by its loss scale.

        It is measured before clipping, if the optimizer has `max_grad_norm` or
        `skip_nonfinite`; otherwise it is None. Before the first step it is NaN. It is summed
        in double, in an order that depends neither on backend nor on threads.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> opt = fastadam.Adam([np.ones(1), np.ones(1)], max_grad_norm=1.0)
        >>> opt.step([np.array([3.0]), np.array([4.0])])
        >>> opt.grad_norm
        5.0
        """
        norm: float = self._batch.grad_norm
        return norm if self._clip.measures else None

    @property
    def skipped_steps(self) -> int:
        """How many steps `skip_nonfinite` left out.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> opt = fastadam.Adam(np.ones(1), skip_nonfinite=True)
        >>> opt.step(np.array([np.inf]))
        >>> opt.skipped_steps
        1
        """
        skipped: int = self._batch.skipped
        return skipped

    @property
    def finished_steps(self) -> int:
        """How many steps were done, not counting those that `skip_nonfinite` left out.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> opt = fastadam.Adam(np.ones(1))
        >>> for _ in range(3):
        ...     opt.step(np.ones(1))
        >>> opt.finished_steps
        3
        """
        finished: int = self._batch.finished
        return finished

    @property
    def params(self) -> Any:
        """The arrays that steps change, nested as they were passed; for groups a list of those.

        The dicts and lists are the very ones that the optimizer got, which it watches: pass a
        copy if you use them for other arrays later. An optimizer that was unpickled or copied
        has others, of its own arrays. It shares them with a model that was copied in the same
        call if they are plain dicts, lists and tuples with nothing but parameters in them.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> fastadam.Adam({"w": np.ones(2)}).params
        {'w': array([1., 1.])}
        """
        arrays = self._batch.arrays
        return list(arrays.nest) if arrays.grouped else arrays.nest

    @property
    def current_lr(self) -> float:
        """The learning rate of the next step, a number also where `lr` is a function.

        Raises
        ------
        AttributeError
            There are several param groups.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> from fastadam import schedules
        >>> opt = fastadam.Adam(np.ones(1), lr=schedules.linear(1.0, 0.0, 4))
        >>> opt.step(np.ones(1))
        >>> opt.current_lr
        0.75
        """
        group, batch = self._single_group(), self._batch
        traits = batch.arrays.traits[0]
        return _hyper.lr_now(_hyper.check_options(group, traits), batch.finished, traits)

    @property
    def lr(self) -> float | Schedule:
        """The learning rate of the single param group, as it was set.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> opt = fastadam.Adam(np.zeros(3), lr=0.1)
        >>> opt.lr /= 10
        >>> opt.lr
        0.01
        """
        lr: float | Schedule = self._single_group()["lr"]
        return lr

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        self._single_group()["lr"] = _hyper.lr_option("lr", value)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters, with options of their own.

        Parameters
        ----------
        group : dict
            ``"params"``, as in the constructor, and any options; those left out are the
            constructor's. From then on `step` takes a list with one entry for each group.

        Raises
        ------
        TypeError, ValueError
            As in the constructor; the optimizer is unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> first, second = np.ones(2), np.ones(3)
        >>> opt = fastadam.Adam([{"params": first}])
        >>> opt.add_param_group({"params": second, "lr": 0.01})
        >>> opt.step([np.ones(2), np.ones(3)])
        """
        with self._lock.hold():
            self._add([group], grouped=True)

    @property
    def state_bytes(self) -> int:
        """How many bytes the arrays of the state take: the moments and, where there are any, the
        averages of the parameters and what half-precision parameters lack of a float32.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> w = np.zeros(1_000_000, np.float32)
        >>> for state_dtype in (None, "bfloat16", "int8"):
        ...     print(fastadam.Adam(w, state_dtype=state_dtype).state_bytes)
        8000000
        4000000
        2031250
        """
        return sum(
            array.nbytes
            for slot in self._batch.arrays.slots
            for array in (*slot.state, slot.average, slot.rest)
            if array is not None
        )

    def state_dict(self, *, decoded: bool = False) -> dict[str, Any]:
        """A copy of state, step counts and options, in torch.optim's layout.

        Parameters
        ----------
        decoded : bool, optional
            Whether moments are given as plain numbers, however they are stored, and nothing of
            what only fastadam knows: for torch.optim and other programs. To go on with the
            same bits takes the dict without it.

        Returns
        -------
        dict
            ``{"state": {key: {"step", "exp_avg", "exp_avg_sq"[, "max_exp_avg_sq"]}},
            "param_groups": [...]}``. A key is the index of an array in a flat
            list, its key in a flat dict, and otherwise its path, such as ``"layers.0.W"``.
            The names of the moments are those of torch.optim's class; with `ema_decay` there is
            also ``"averaged_param"``.

        Notes
        -----
        Arrays have the parameter's shape and dtype, except for these:

        moments of bfloat16 and float16 parameters
            float32
        moments with ``state_dtype="bfloat16"``
            uint16, the upper half of each float32. ``x.view(ml_dtypes.bfloat16)`` has the numbers,
            as has ``torch.from_numpy(x).view(torch.bfloat16)``. For a complex parameter there is
            another axis of 2 at the end, for both parts.
        moments with ``state_dtype="int8"``
            uint8, of shape (blocks, 65): each row is for 64 numbers of the parameter in C order
            (a complex element has two), and what its bytes mean is written in
            ``csrc/codecs/int8.h``. A parameter of fewer than 4,096 numbers has moments as without
            `state_dtype`.
        ``"averaged_param"`` of bfloat16 and float16 parameters
            float32
        ``"param_remainder"``, which bfloat16 parameters have
            int16: what is to be added to the bits of the parameter, taken as the upper half of a
            float32, so that they are those of the float32 number that steps change
        ``"master_param"``, which float16 parameters have
            float32: the number that steps change, of which the parameter is the rounded one

        With ``decoded=True`` moments are of the dtype in which the parameter is stepped, which is
        float32 for bfloat16 and float16, and there is neither ``"param_remainder"`` nor
        ``"master_param"``.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> opt = fastadam.Adam({"w": np.ones(2)})
        >>> opt.step({"w": np.ones(2)})
        >>> opt.state_dict()["state"]["w"]["exp_avg"]
        array([0.1, 0.1])
        >>> opt = fastadam.Adam({"w": np.ones(2, np.float32)}, state_dtype="bfloat16")
        >>> opt.state_dict()["state"]["w"]["exp_avg"].dtype
        dtype('uint16')
        >>> opt.state_dict(decoded=True)["state"]["w"]["exp_avg"].dtype
        dtype('float32')
        """
        with self._lock.hold():
            return copied(self._saved(decoded))

    def _saved(self, decoded: bool = False) -> dict[str, Any]:
        """A state dict that holds the arrays of the state themselves, or decoded ones."""
        return write_state(self._held_batch().arrays, self._counts(), self.param_groups, decoded)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state, step counts and options.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` of an optimizer of the same class gave, or that of
            torch.optim's class of the same name or, where torch has none, of the packages
            that `fastadam.torch` names, for parameters of the same shapes and dtypes in the
            same order. A parameter that has no state in it will be as before
            its first step. The arrays are copied.

        Raises
        ------
        TypeError, ValueError, KeyError
            It does not fit; the message says what does not. The optimizer is unchanged.

        Notes
        -----
        How moments are stored stays as the optimizer was made: its `state_dtype` is not taken
        over, as all other options are. Moments that are stored in the same way get the same bits.
        Others are decoded, which is exact, and where the optimizer stores them as bfloat16 or
        in 8 bits they are rounded once, by the same rule as in the step of that count. So what
        `state_dict` gave with another `state_dtype` or for parameters in half precision loads,
        and what torch.optim gave for those, too: float32, float16, and bfloat16 as uint16, as
        ``ml_dtypes.bfloat16`` or as a tensor.

        A half-precision parameter goes on from exactly the float32 number that it had if the
        parameter itself is loaded, too. Where ``"param_remainder"`` or ``"master_param"`` is
        missing it goes on from its own value; where the optimizer has no use for them, they are
        left out.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> opt = fastadam.Adam(np.ones(2), lr=0.1)
        >>> opt.step(np.ones(2))
        >>> other = fastadam.Adam(np.ones(2))
        >>> other.load_state_dict(opt.state_dict())
        >>> other.lr
        0.1
        """
        with self._lock.hold():
            self._replace(*self._loaded(state_dict))

    def _loaded(
        self,
        state_dict: Mapping[str, Any],
        adopts: Adopts | None = None,
        changes: Sequence[Callable[[], object]] = (),
        params: Sequence[Array] | None = None,
    ) -> tuple[Any, list[Callable[[], object]]]:
        """What `load_state_dict` will put in place, for who holds the lock: see `_replace`.

        `adopts` says which arrays of the dict are taken over and not copied. `changes` are calls
        of C that belong to it, and `params` what they make of the parameters.
        """
        old = self._held_batch().arrays
        loaded = read_state(old, state_dict, self.param_groups, self._fixed, adopts, params)
        arrays = _groups.arranged(
            self._rule, old.specs, old.nests, loaded.slots, self._ema_decay, old.grouped
        )
        batch = self._new_batch(arrays, loaded.counts, loaded.groups)
        groups = zip(self.param_groups, loaded.groups, strict=True)
        updates = [partial(dict.update, group, new) for group, new in groups]
        return batch, [*changes, *updates]

    def save(self, path: str | os.PathLike[str], *, params: bool = False, rng: Any = None) -> None:
        """Write a checkpoint: one file, which replaces an older one as a whole or not at all.

        It has the state, the step counts and the options, and whatever a
        `schedules.ReduceOnPlateau` remembers. With the parameters and the random generators it
        is all that is needed to go on training as if nothing had been in between.

        Parameters
        ----------
        path : str or path-like
            A file in fastadam's own format, or, if the name ends in ``.safetensors``, in
            that one, with arrays named as the parameters: ``layers.0.W``,
            ``layers.0.W.exp_avg``. Endings that promise another format, such as ``.npz``,
            are refused.
        params : bool, optional
            Whether the parameters are saved, too.
        rng : numpy.random.Generator or RandomState, or list of them, optional
            Random generators whose states are saved, too.

        Raises
        ------
        OSError
            The file could not be written.
        TypeError
            A parameter has a key, or a param group a value, that JSON has no form for.
        ValueError
            The name promises another format, or a parameter was replaced or resized and so
            cannot be saved.
        ImportError
            The name ends in ``.safetensors``, and that package is not installed, or with bfloat16
            parameters or state ml_dtypes is not.

        Notes
        -----
        Not in the file are functions for learning rates (but for what a ReduceOnPlateau
        remembers), gradients from `accumulate`, and all that the optimizer does not know of, such
        as a model's other numbers. What the bytes of a file mean is written at the head of
        ``fastadam/_files.py``, and what its header holds at the head of
        ``fastadam/_checkpoint.py``.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> import fastadam
        >>> path = os.path.join(tempfile.mkdtemp(), "adam.ckpt")
        >>> w, rng = np.ones(2), np.random.default_rng(0)
        >>> opt = fastadam.Adam(w, lr=0.1)
        >>> opt.step(np.ones(2))
        >>> opt.save(path, params=True, rng=rng)
        >>> again = fastadam.Adam(np.zeros(2))
        >>> again.load(path, params=True, rng=np.random.default_rng())
        >>> again.params, again.lr, again.finished_steps
        (array([0.9, 0.9]), 0.1, 1)
        """
        with self._lock.hold():
            self._held_batch().arrays.check_groups(self.param_groups)
            self._write(path, self._saved(), params, rng)

    def _write(
        self, path: str | os.PathLike[str], state_dict: dict[str, Any], params: bool, rng: Any
    ) -> None:
        """What `save` does with a state dict, for who holds the lock."""
        found = _groups.found_params(self._held_batch().arrays) if params else None
        saved = _checkpoint.pack(
            self._class_name(),
            state_dict,
            None if found is None else list(map(codes_of, found)),
            _generators.as_list(rng),
        )
        _files.write(path, *saved)

    def load(
        self, path: str | os.PathLike[str], *, params: bool | None = None, rng: Any = None
    ) -> None:
        """Take over a checkpoint that `save` wrote.

        It must be of an optimizer of the same class, with parameters of the same keys, shapes and
        dtypes; but its moments may be stored in another way, as in `load_state_dict`.

        Parameters
        ----------
        path : str or path-like
        params : bool, optional
            Whether the parameters get the saved values. With True the file must have them;
            with False the parameters stay as they are; if left out, they get the saved values
            if the file has them.
        rng : numpy.random.Generator or RandomState, or list of them, optional
            As many as were saved; they get the saved states. An empty list leaves the states in
            the file unused.

        Raises
        ------
        OSError
            The file could not be read.
        TypeError, ValueError, KeyError
            The file is truncated, damaged, of a newer version or no checkpoint; or it is of
            an optimizer of another class, or with other parameters, shapes or dtypes; or it
            lacks the parameters, or has not as many generators. The message says which.
            Nothing was changed.
        ImportError
            As in `save`.

        Notes
        -----
        If the learning rate was saved as a function, the optimizer must have a function now, and
        keeps it; if it was saved as a number, the optimizer's must be a number, too, and the saved
        one takes its place. A `schedules.ReduceOnPlateau`, as the learning rate itself or within
        `schedules.join`, must have been saved as one, and gets what that one remembered.

        Examples
        --------
        See `save`.
        """
        generators = None if rng is None else _generators.as_list(rng)
        header, found = _files.read(path)
        with _files.naming(path), self._lock.hold():
            self._replace(*self._loaded_file(header, found, params, generators))

    def _class_name(self) -> str:
        """The name under which the state of such an optimizer is saved."""
        return type(self).__name__

    def _loaded_file(
        self,
        header: dict[str, Any],
        found: dict[str, Array],
        params: bool | None,
        generators: list[Any] | None,
    ) -> tuple[Any, list[Callable[[], object]]]:
        """What `load` will put in place of a file's content, for who holds the lock."""
        arrays = self._held_batch().arrays
        loaded = self._unpacked(header, found, generators)
        changes = loaded.changes
        if params and loaded.params is None:
            raise ValueError("it has no parameters; save(path, params=True) writes them")
        values = None if params is False else loaded.params
        if values is not None:
            changes += _groups.param_changes(arrays, values)
        return self._loaded(loaded.state_dict, lies_as_state, changes, values)

    def _unpacked(
        self, header: dict[str, Any], found: dict[str, Array], generators: list[Any] | None
    ) -> _checkpoint.Unpacked:
        """What a file's content says of this optimizer's parameters."""
        keys = [slot.key for slot in self._batch.arrays.slots]
        return _checkpoint.unpack(
            header, found, self._class_name(), keys, self.param_groups, generators
        )

    def _add(self, groups: Sequence[Mapping[str, Any]], grouped: bool) -> None:
        """Check and add groups; what fails leaves the optimizer as it was."""
        old, counts = None, Counts([], [])
        if self._batch is not None:
            old, counts = self._held_batch().arrays, self._counts()
            old.check_groups(self.param_groups)
        arrays, new_groups = _groups.added(
            self._rule,
            old,
            groups,
            self.defaults,
            self._ema_decay,
            grouped,
            has_state=self._has_state,
        )
        n_new = len(arrays.slots) - len(counts.steps)
        counts.steps.extend([0] * n_new)
        counts.numbers.extend([self._rule.first_numbers] * n_new)
        batch = self._new_batch(arrays, counts, [*self.param_groups, *new_groups])
        batch.sums = self._batch.sums if self._batch else None
        self._replace(batch, [partial(self.param_groups.extend, new_groups)])

    def _new_batch(self, arrays: Arrays, counts: Counts, groups: Sequence[Group]) -> Any:
        """What steps these arrays of these groups."""
        return self._backend.Batch(arrays, counts, self._lock, self._clip)

    def _replace(self, batch: Any, changes: Sequence[Callable[[], object]]) -> None:
        """Take another batch, and make the changes of the param groups that belong to it.

        Steps that wait for the lock will see that their batch is retired.
        """
        changes = [*changes, partial(object.__setattr__, self, "_batch", batch)]
        if self._batch is not None:
            changes.append(partial(setattr, self._batch, "retired", True))
        at_once(changes)()

    def _counts(self) -> Counts:
        batch = self._batch
        return Counts(
            list(batch.steps),
            list(batch.numbers),
            batch.finished,
            batch.skipped,
            batch.grad_norm,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse slips such as ``opt.weight_decay = 0.1``, which would change nothing."""
        if name not in _ATTRIBUTES:
            if name in self._rule.options:
                raise AttributeError(
                    f"{name} is an option of each param group: set opt.param_groups[i][{name!r}]"
                )
            if type(self).__module__.startswith("fastadam.family."):
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to be set")
        super().__setattr__(name, value)

    def _single_group(self) -> Group:
        if len(self.param_groups) != 1:
            raise AttributeError(
                f"there are {len(self.param_groups)} param groups, each with a learning rate "
                "of its own, opt.param_groups[i]['lr']"
            )
        return self.param_groups[0]

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy.deepcopy: the parameters and all state, and nothing of a backend.

        No thread may step while pickle, afterwards, reads the arrays.
        """
        with self._lock.hold():
            return self._content()

    def _content(self) -> dict[str, Any]:
        """What a copy is made from, for who holds the lock."""
        arrays = self._held_batch().arrays
        arrays.check_nest()  # the copy could not notice
        slots = [
            (
                slot.key,
                slot.suffix,
                slot.user,
                slot.group,
                slot.state,
                slot.average,
                slot.rest,
                slot.state_dtype,
            )
            for slot in arrays.slots
        ]
        content = {name: value for name, value in vars(self).items() if name not in _REMADE}
        # The user's dicts and lists themselves, unless there is more in them: who knows whether
        # that can be pickled.
        nests = [
            nest
            if _tree.is_unchanged(spec, nest, arrays.params)
            else _tree.build(spec, arrays.params)
            for spec, nest in zip(arrays.specs, arrays.nests, strict=True)
        ]
        batch = arrays.specs, nests, arrays.grouped, slots, self._counts(), self._batch.sums
        return {**content, "_batch": batch}

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        with self._lock.hold():
            new = memo[id(self)] = type(self).__new__(type(self))
            new.__setstate__(copy.deepcopy(self._content(), memo))
            return new

    def __copy__(self) -> Optimizer:
        raise TypeError("a copy would share its parameters with this optimizer; use copy.deepcopy")

    def __setstate__(self, content: dict[str, Any]) -> None:
        specs, nests, grouped, slots, counts, sums = content.pop("_batch")
        vars(self).update(content)
        slots = [
            restored(slot(self._rule, [user], group, suffix, key), *kept)
            for key, suffix, user, group, *kept in slots
        ]
        arrays = _groups.arranged(self._rule, specs, nests, slots, self._ema_decay, grouped)
        self._backend = _backend.module()
        self._lock = self._backend.Lock()
        batch = self._backend.Batch(arrays, counts, self._lock, self._clip)
        batch.sums = sums
        self._batch = batch

    def __repr__(self) -> str:
        arrays = self._batch.arrays
        n = len(arrays.slots)
        what = [f"{n} array{'s' if n > 1 else ''}"]
        for number, (group, traits) in enumerate(
            zip(self.param_groups, arrays.traits, strict=False)
        ):
            shown = _hyper.plain(group, traits)
            options = [f"{name}={shown[name]!r}" for name in traits.options if name in shown]
            if len(self.param_groups) > 1:
                options = [f"group {number}: {{{', '.join(options)}}}"]
            what += options
        if self._clip.max_grad_norm < math.inf:
            what.append(f"max_grad_norm={self._clip.max_grad_norm}")
        if self._clip.skip_nonfinite:
            what.append("skip_nonfinite=True")
        if self._ema_decay is not None:
            what.append(f"ema_decay={self._ema_decay}")
        return f"{type(self).__name__}({', '.join(what)})"
