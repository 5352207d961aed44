"""What all optimizers share: groups, steps, state."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from fastadam import _backend, _checkpoint, _files, _hyper, _rows, _tree
from fastadam._arrays import (
    PAUSED,
    READING,
    Arrays,
    Counts,
    Slot,
    check_separate,
    check_written,
    slot,
    state_like,
)
from fastadam._hyper import Group, Schedule
from fastadam._rules import Rule
from fastadam._state import AVERAGE, Leaf, read_state
from fastadam._types import Array

_REMADE = ("_backend", "_lock", "_batch", "_slots")


class _Accumulated:
    """Stands for the mean of the gradients given to `accumulate`."""

    def __repr__(self) -> str:
        return "<accumulated>"


ACCUMULATED: Any = _Accumulated()


class Optimizer:
    """What all optimizers share; see `Adam`."""

    param_groups: list[Group]
    _rule: ClassVar[Rule]
    _fixed: ClassVar[Group] = {}  # options that a loaded state dict does not change
    _batch: Any  # of self._backend

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
        self._specs: list[_tree.Spec] = []
        self._leaves: list[Leaf] = []
        self._slots: list[Slot] = []
        self._sums: dict[int, Array | _rows.RowGrad] = {}
        self._accumulated = 0
        self._backend = _backend.module()
        self._lock = self._backend.Lock()
        self._batch = None
        self._grouped = _is_groups(params)
        self._add(params if self._grouped else [{"params": params}])

    def step(self, grads: Any = ACCUMULATED, *, loss_scale: float = 1.0) -> None:
        """Change the parameters by one step against their gradients.

        Parameters
        ----------
        grads : ndarray, or nesting of ndarray as the parameters'
            Gradients, of the parameters' shapes and dtypes; with param groups a
            list with one entry for each group. None in place of a gradient
            skips that array and its step count; a `RowGrad` or a two-dimensional
            scipy.sparse array steps a part of it. Gradients are only read and may
            be in any memory layout. Left out, it is the mean of what `accumulate` got.
        loss_scale : float, optional
            Gradients are divided by it.

        Raises
        ------
        TypeError, ValueError, KeyError
            A gradient or an edited option does not fit; the message names it.
            No parameter, state or step count was changed.

        Notes
        -----
        Threads that step one optimizer at once take turns.

        Examples
        --------
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

    def accumulate(self, grads: Any) -> None:
        """Keep gradients for the next step, which will go against their mean.

        Parameters
        ----------
        grads : ndarray, or nesting of ndarray as the parameters'
            As in `step`; they are copied. An array that got None every time is
            skipped, otherwise None counts as zero.

        Raises
        ------
        TypeError, ValueError, KeyError
            A gradient does not fit; nothing of `grads` was kept.

        Examples
        --------
        >>> w = np.zeros(2)
        >>> opt = fastadam.SGD(w, lr=1.0)
        >>> for g in ([1.0, 2.0], [3.0, 4.0]):
        ...     opt.accumulate(np.array(g))
        >>> opt.step()
        >>> w
        array([-2., -3.])
        """
        with self._lock:
            sum_rows, arrays = self._backend.sum_rows, self._batch.arrays
            with self._reading(), np.errstate(all="ignore"):
                decays = [h.weight_decay for h in arrays.check_groups(self.param_groups)]
                plain = arrays.plain_gradients(grads, decays, sum_rows)
                sums = dict(self._sums)
                for i, grad in enumerate(plain):
                    if grad is not None:
                        param, total = self._slots[i].param, sums.get(i)
                        sums[i] = _sum(arrays.name(i), total, grad, param, sum_rows)
                self._sums, self._accumulated = sums, self._accumulated + 1

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Let no signal handler step meanwhile; other threads wait for the lock."""
        self._batch.pause(READING)
        try:
            yield
        finally:
            self._batch.resume()

    def _step_mean(self, loss_scale: float) -> None:
        with self._lock:
            if not self._accumulated:
                raise ValueError("step without gradients needs some from accumulate")
            means: list[Any] = [None] * len(self._leaves)
            with np.errstate(all="ignore"):
                for i, total in self._sums.items():
                    if isinstance(total, _rows.RowGrad):
                        means[i] = _rows.RowGrad(total.rows, total.values / self._accumulated)
                    else:
                        means[i] = total / self._accumulated
            spec = self._batch.arrays.spec
            before = self._batch.finished + self._batch.skipped
            try:
                self.step(_tree.build(spec, means), loss_scale=loss_scale)
            finally:  # also where Ctrl-C came during the step, which was done all the same
                if self._batch.finished + self._batch.skipped != before:
                    self._sums, self._accumulated = {}, 0

    def averaged_params(self) -> Any:
        """The moving average of the parameters, with `ema_decay`.

        After each step of an array, ``average = ema_decay*average + (1 - ema_decay)*param``;
        it begins as the parameter was when the optimizer was made.

        Returns
        -------
        ndarray or nesting of ndarray
            Copies, nested as the parameters (lists in place of tuples; for groups, a
            list with an entry for each).

        Raises
        ------
        ValueError
            The optimizer was made without `ema_decay`.

        References
        ----------
        Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

        Examples
        --------
        >>> w = np.zeros(1)
        >>> opt = fastadam.SGD(w, lr=1.0, ema_decay=0.5)
        >>> opt.step(np.array([-1.0]))
        >>> w, opt.averaged_params()
        (array([1.]), array([0.5]))
        """
        with self._lock:
            self._batch.check_whole()
            copies = [
                _filled(leaf.array, average)
                for leaf, average in zip(self._leaves, self._averages(), strict=True)
            ]
            return _tree.build(self._batch.arrays.spec, copies)

    @contextmanager
    def use_averaged_params(self) -> Iterator[None]:
        """Put the moving averages into the parameters for the time of a `with` block.

        Whatever the block does to the parameters is undone at its end. Within, the optimizer
        takes no steps.

        Raises
        ------
        ValueError
            The optimizer was made without `ema_decay`.
        RuntimeError
            The optimizer was used within the block.

        Examples
        --------
        >>> w = np.zeros(1)
        >>> opt = fastadam.SGD(w, lr=1.0, ema_decay=0.5)
        >>> opt.step(np.array([-1.0]))
        >>> with opt.use_averaged_params():
        ...     print(w)
        [0.5]
        >>> w
        array([1.])
        """
        kept: list[Array] = []
        try:
            with self._lock:
                averages = self._averages()
                self._batch.check_whole()
                # Views, which stay as they are if the block reshapes a parameter, say.
                params = [leaf.array.view(np.ndarray) for leaf in self._leaves]
                kept = [param.copy(order="K") for param in params]
                self._batch.pause(PAUSED)
            _copy_all(params, averages)
            yield
        finally:
            if kept:
                _copy_all(params, kept)
                self._batch.resume()

    def _averages(self) -> list[Array]:
        averages = [slot.average for slot in self._slots if slot.average is not None]
        if not averages:
            raise ValueError("there is no average of the parameters; set ema_decay")
        return averages

    @property
    def grad_norm(self) -> float | None:
        """The global L2 norm of the last step's gradients, divided by its loss scale.

        Measured with `max_grad_norm` or `skip_nonfinite`, before clipping; None
        without, NaN before the first step. It is summed in double, in an order that
        depends neither on backend nor on threads.

        Examples
        --------
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
        >>> opt = fastadam.Adam(np.ones(1), skip_nonfinite=True)
        >>> opt.step(np.array([np.inf]))
        >>> opt.skipped_steps
        1
        """
        skipped: int = self._batch.skipped
        return skipped

    @property
    def lr(self) -> float | Schedule:
        """The learning rate of the single param group, as it was set.

        Examples
        --------
        >>> opt = fastadam.Adam(np.zeros(3), lr=0.1)
        >>> opt.lr /= 10
        >>> opt.lr
        0.01
        """
        lr: float | Schedule = self._single_group()["lr"]
        return lr

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        self._single_group()["lr"] = value if callable(value) else _hyper.check_lr(value)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters, with options of their own.

        Parameters
        ----------
        group : dict
            ``"params"``, as in the constructor, and any options; the others
            are the constructor's. From now on `step` takes a list with one
            entry for each group.

        Raises
        ------
        TypeError, ValueError
            As in the constructor; the optimizer is unchanged.

        Examples
        --------
        >>> first, second = np.ones(2), np.ones(3)
        >>> opt = fastadam.Adam([{"params": first}])
        >>> opt.add_param_group({"params": second, "lr": 0.01})
        >>> opt.step([np.ones(2), np.ones(3)])
        """
        with self._lock:
            self._add([group], grouped=True)

    def state_dict(self) -> dict[str, Any]:
        """A copy of state, step counts and options, in torch.optim's layout.

        Returns
        -------
        dict
            ``{"state": {key: {"step", "exp_avg", "exp_avg_sq"[, "max_exp_avg_sq"]}},
            "param_groups": [...]}``. A key is the index of an array in a flat
            list, its key in a flat dict, else its path, such as ``"layers.0.W"``.

        Examples
        --------
        >>> opt = fastadam.Adam({"w": np.ones(2)})
        >>> opt.step({"w": np.ones(2)})
        >>> opt.state_dict()["state"]["w"]["exp_avg"]
        array([0.1, 0.1])
        """
        with self._lock, self._reading():
            saved = self._saved()
            for entry in saved["state"].values():
                for name, value in entry.items():
                    if isinstance(value, np.ndarray):
                        entry[name] = value.copy(order="K")
            return saved

    def _saved(self) -> dict[str, Any]:
        """A state dict that holds the arrays of the state themselves."""
        counts = self._counts()
        state = {}
        for i, (leaf, own) in enumerate(zip(self._leaves, self._slots, strict=True)):
            arrays = dict(zip(self._rule.states, own.state, strict=True))
            arrays[AVERAGE] = own.average
            state[leaf.key] = {
                "step": counts.steps[i],
                **dict.fromkeys(self._rule.numbers, counts.mu_products[i]),
                **{name: array for name, array in arrays.items() if array is not None},
            }
        keys: list[list[Any]] = [[] for _ in self.param_groups]
        for leaf in self._leaves:
            keys[leaf.group].append(leaf.key)
        groups = [
            {
                **{k: v for k, v in _hyper.plain(group, traits).items() if k != "params"},
                "finished_steps": counts.finished,
                "skipped_steps": counts.skipped,
                "params": keys[i],
            }
            for i, (group, traits) in enumerate(
                zip(self.param_groups, self._batch.arrays.traits, strict=False)
            )
        ]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state, step counts and options.

        Parameters
        ----------
        state_dict : dict
            From `state_dict`, or from torch.optim's class of that name for as many
            parameters of equal shapes and dtypes in the same order. An array without
            state is as before its first step. The arrays are copied.

        Raises
        ------
        TypeError, ValueError, KeyError
            It does not fit; the message names what. The optimizer is unchanged.

        Examples
        --------
        >>> opt = fastadam.Adam(np.ones(2), lr=0.1)
        >>> opt.step(np.ones(2))
        >>> other = fastadam.Adam(np.ones(2))
        >>> other.load_state_dict(opt.state_dict())
        >>> other.lr
        0.1
        """
        self._load(state_dict)

    def _load(self, state_dict: Mapping[str, Any], adopt: bool = False) -> None:
        with self._lock:
            self._batch.check_whole()
            loaded = read_state(
                self._rule, state_dict, self._leaves, self._slots, self.param_groups, adopt
            )
            for group in loaded.groups:
                group.update(self._fixed)
            arrays = self._arrange(self._specs, self._leaves, loaded.slots, self._grouped)
            for group, traits in zip(loaded.groups, arrays.traits, strict=True):
                group.update(_hyper.checked(group, traits))
            self._replace(self._backend.Batch(arrays, loaded.counts, self._lock, self._clip))
            self._slots = loaded.slots
            for group, new in zip(self.param_groups, loaded.groups, strict=True):
                group.update(new)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write state, step counts and options to a file.

        Parameters
        ----------
        path : str or path-like
            A file in fastadam's own format, or, if the name ends in ``.safetensors``, in
            that one. A file that is there is replaced at the end, in one go: whatever
            happens before, it stays whole.

        Raises
        ------
        OSError
            The file could not be written.
        TypeError
            A parameter has a key, or a param group a value, that JSON has no form for.
        ImportError
            The name ends in ``.safetensors``, and that package is not installed.

        Notes
        -----
        The parameters are not in it, nor are learning-rate functions, nor gradients from
        `accumulate`. What the bytes of a file mean is written at the head of
        ``fastadam/_files.py``, and what its header holds at the head of
        ``fastadam/_checkpoint.py``.

        Examples
        --------
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "adam.ckpt")
        >>> opt = fastadam.Adam(np.ones(2), lr=0.1)
        >>> opt.step(np.ones(2))
        >>> opt.save(path)
        >>> again = fastadam.Adam(np.ones(2))
        >>> again.load(path)
        >>> again.lr, again.state_dict()["state"][0]["step"]
        (0.1, 1)
        """
        with self._lock, self._reading():
            self._batch.arrays.check_groups(self.param_groups)
            _files.write(path, *_checkpoint.pack(self._saved(), type(self).__name__))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what `save` wrote, of an optimizer of the same class on like parameters.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        OSError
            The file could not be read.
        TypeError, ValueError, KeyError
            It is truncated, damaged, foreign or of a newer version, or is of another
            optimizer, other parameters, shapes or dtypes; the message says which. The
            optimizer is unchanged.

        Notes
        -----
        Where the learning rate was a function, the optimizer must have one now, and keeps it.

        Examples
        --------
        See `save`.
        """
        header, arrays = _files.read(path)
        with _files.naming(path), self._lock:
            keys = [leaf.key for leaf in self._leaves]
            saved = _checkpoint.unpack(header, arrays, type(self).__name__, keys, self.param_groups)
            self._load(saved, adopt=True)

    def _add(self, groups: Sequence[Mapping[str, Any]], grouped: bool = False) -> None:
        """Check and add groups; what fails leaves the optimizer as it was."""
        if self._batch is not None:
            self._batch.check_whole()
        grouped = grouped or self._grouped
        specs, leaves = list(self._specs), list(self._leaves)
        param_groups = list(self.param_groups)
        for group in groups:
            _check_new_group(group)
            found: list[tuple[_tree.Path, Any]] = []
            specs.append(_tree.index(group["params"], found, len(leaves)))
            number = len(param_groups)
            prefix = f"[{number}]" if grouped else ""
            keys = _keys(group["params"], found, number, leaves)
            for key, (path, array) in zip(keys, found, strict=True):
                suffix = _tree.label(prefix, path)
                check_written("params" + suffix, array)
                leaves.append(Leaf(key, suffix, array, number))
            arrays = tuple(array for _, array in found)
            param_groups.append({**self.defaults, **group, "params": arrays})
        if not leaves:
            raise ValueError("optimizer got an empty parameter list")
        check_separate([("params" + leaf.suffix, leaf.array) for leaf in leaves])

        old = len(self._leaves)
        slots = list(self._slots)
        for leaf in leaves[old:]:
            slots.append(self._new_slot(leaf, param_groups[leaf.group]))
        laid = self._arrange(specs, leaves, slots, grouped)
        laid.check_groups(param_groups)
        for i in range(len(self.param_groups), len(param_groups)):
            param_groups[i].update(_hyper.checked(param_groups[i], laid.traits[i]))
        counts = self._counts() if old else Counts([], [])
        counts.steps.extend([0] * (len(leaves) - old))
        counts.mu_products.extend([1.0] * (len(leaves) - old))
        self._replace(self._backend.Batch(laid, counts, self._lock, self._clip))
        self._specs, self._leaves, self._slots = specs, leaves, slots
        self.param_groups[:] = param_groups
        self._grouped = grouped

    def _arrange(
        self, specs: list[_tree.Spec], leaves: list[Leaf], slots: list[Slot], grouped: bool
    ) -> Arrays:
        return Arrays(
            rule=self._rule,
            spec=specs if grouped else specs[0],
            names=("params", "grads"),
            suffixes=[leaf.suffix for leaf in leaves],
            params=[leaf.array for leaf in leaves],
            slots=slots,
            written=[("params" + leaf.suffix, leaf.array) for leaf in leaves],
            n_groups=len(specs),
            ema_decay=self._ema_decay,
        )

    def _new_slot(self, leaf: Leaf, group: Group) -> Slot:
        bare = slot(self._rule, [leaf.array], leaf.group)
        state = tuple(
            state_like(bare.param, k)
            if name not in self._rule.asked or group[self._rule.asked[name]]
            else None
            for k, name in enumerate(self._rule.states)
        )
        average = None
        if self._ema_decay is not None:
            average = state_like(bare.param, len(state), leaf.array)
        return bare._replace(state=state, average=average)

    def _replace(self, batch: Any) -> None:
        """Take another batch; steps that wait for the old one will see that it is retired."""
        old, self._batch = self._batch, batch
        if old is not None:
            old.retire()

    def _counts(self) -> Counts:
        batch = self._batch
        return Counts(
            list(batch.steps),
            list(batch.mu_products),
            batch.finished,
            batch.skipped,
            batch.grad_norm,
        )

    def _single_group(self) -> Group:
        if len(self.param_groups) != 1:
            raise AttributeError(
                f"there are {len(self.param_groups)} param groups; "
                "use opt.param_groups[i]['lr'] instead of opt.lr"
            )
        return self.param_groups[0]

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy.deepcopy: the parameters and all state, and nothing of a backend.

        No thread may step while pickle, afterwards, reads the arrays.
        """
        with self._lock:
            self._batch.check_whole()
            own = {k: v for k, v in vars(self).items() if k not in _REMADE}
            state = [(slot.state, slot.average) for slot in self._slots]
            return {**own, "state": state, "counts": self._counts()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        with self._lock:
            new = memo[id(self)] = type(self).__new__(type(self))
            new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
            return new

    def __copy__(self) -> Optimizer:
        raise TypeError("a copy would share its parameters with this optimizer; use copy.deepcopy")

    def __setstate__(self, saved: dict[str, Any]) -> None:
        state, counts = saved.pop("state"), saved.pop("counts")
        vars(self).update(saved)
        self._slots = []
        for leaf, (arrays, average) in zip(self._leaves, state, strict=True):
            bare = slot(self._rule, [leaf.array], leaf.group)
            *arrays, average = (
                None if array is None else state_like(bare.param, k, array)
                for k, array in enumerate((*arrays, average))
            )
            self._slots.append(bare._replace(state=tuple(arrays), average=average))
        self._backend = _backend.module()
        self._lock = self._backend.Lock()
        arrays = self._arrange(self._specs, self._leaves, self._slots, self._grouped)
        self._batch = self._backend.Batch(arrays, counts, self._lock, self._clip)

    def __repr__(self) -> str:
        group = _hyper.plain(self.param_groups[0], self._batch.arrays.traits[0])
        options = {k: v for k, v in group.items() if k != "params"}
        text = ", ".join(f"{key}={value!r}" for key, value in options.items())
        more = f", {len(self.param_groups)} groups" if len(self.param_groups) > 1 else ""
        return f"{type(self).__name__}({len(self._leaves)} arrays{more}, {text})"


def _is_groups(params: Any) -> bool:
    return (
        isinstance(params, list | tuple)
        and len(params) > 0
        and all(isinstance(entry, Mapping) and "params" in entry for entry in params)
    )


def _check_new_group(group: Any) -> None:
    if not isinstance(group, Mapping):
        raise TypeError(f"a param group must be a dict, found {type(group).__name__}")
    if "params" not in group:
        raise ValueError("a param group needs a 'params' entry")


def _keys(
    nest: Any, found: Sequence[tuple[_tree.Path, Any]], group: int, leaves: Sequence[Leaf]
) -> list[Any]:
    """The keys of a group's arrays: torch's indices, a flat dict's keys, or dotted paths."""
    keys: list[Any]
    if any(len(path) > 1 for path, _ in found):
        keys = [".".join(map(str, path)) for path, _ in found]
    elif isinstance(nest, Mapping):
        keys = [path[0] for path, _ in found]
    else:
        keys = list(range(len(leaves), len(leaves) + len(found)))
    taken = {leaf.key for leaf in leaves}
    if not taken.isdisjoint(keys):
        keys = [f"{group}.{key}" for key in keys]
    for key in keys:
        if key in taken:
            raise ValueError(f"two parameters have the same key {key!r}; rename one")
        taken.add(key)
    return keys


def _sum(
    label: str,
    total: Array | _rows.RowGrad | None,
    grad: Array | _rows.Rows,
    param: Array,
    sum_rows: _rows.SumRows,
) -> Any:
    """The sum of gradients; a new array."""
    if isinstance(grad, _rows.Rows):
        if grad.elements:
            raise TypeError(f"{label}: accumulate takes no scipy.sparse array; use RowGrad")
        values = grad.values.reshape(len(grad.rows), *param.shape[1:])
        if total is None:
            return _rows.RowGrad(grad.rows, values.copy())
        if isinstance(total, _rows.RowGrad):
            rows = np.concatenate([total.rows, grad.rows])
            both = np.concatenate([total.values, values]).reshape(len(rows), grad.values.shape[1])
            rows, sums = _rows.merged(rows, both, sum_rows)
            return _rows.RowGrad(rows, sums.reshape(len(rows), *param.shape[1:]))
        sums = total.copy()
        sums[grad.rows] += values
        return sums
    if isinstance(total, _rows.RowGrad):
        dense = np.zeros_like(param)
        np.add.at(dense, total.rows, total.values)
        return dense + grad
    return grad.copy(order="K") if total is None else total + grad


def _copy_all(targets: list[Array], sources: list[Array]) -> None:
    """Copy all, also if Ctrl-C comes meanwhile."""
    pairs = list(zip(targets, sources, strict=True))
    try:
        for target, source in pairs:
            np.copyto(target, source)
    except KeyboardInterrupt:
        for target, source in pairs:
            np.copyto(target, source)
        raise


def _filled(like: Array, values: Array) -> Array:
    copy = np.empty_like(like, subok=False)
    np.copyto(copy, values)
    return copy
