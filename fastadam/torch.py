"""PyTorch's optimizers for tensors on the CPU, stepped by fastadam.

`Adam`, `AdamW`, `NAdam`, `RAdam`, `Adamax`, `RMSprop` and `SGD` are subclasses of those of
``torch.optim``: constructors, param groups, hooks, schedulers, ``GradScaler("cpu")`` and state
dicts, which load both ways, are torch's. A step is one call of C, in place.

What differs from torch's own:

- Steps follow fastadam's rule, exact to the bit whatever the layout, threads or instruction set.
- The step count in a state is a float64 tensor, which does not stop at 2**24.
- The sparse gradient of an embedding changes only the rows that it has, as
  ``torch.optim.SparseAdam`` does, and their state; those of other rows do not decay.
- Gradients and parameters may have any strides, and they need not be alike. Parameters that
  share memory raise an error.
- ``foreach`` and ``fused`` choose nothing here; ``capturable`` and ``differentiable`` raise an
  error, and so do tensors on other devices or of other dtypes than float32, float64, complex64
  and complex128.

A step uses at most ``torch.get_num_threads()`` and `fastadam.get_num_threads` threads.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastadam import _backend, _hyper, _rows, _rules
from fastadam._arrays import Arrays, Counts
from fastadam._checks import check_separate, check_written
from fastadam._slots import is_plain, slot, state_like
from fastadam._state import read_product, read_step
from fastadam._types import Array

try:
    import torch
    from torch.autograd.graph import increment_version
    from torch.optim.optimizer import (
        _global_optimizer_post_hooks,
        _global_optimizer_pre_hooks,
    )
except ImportError as error:
    raise ImportError("fastadam.torch needs PyTorch: pip install torch") from error

__all__ = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
#: By which the compiled backend looks at tensors; without it they all become arrays.
EXCHANGE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
STORAGE_OWNERS = getattr(torch._C, "_storage_Use_Count", None)


class _Member(NamedTuple):
    """A parameter that has a gradient, or had one."""

    name: str
    param: torch.Tensor
    group: int
    arrays: list[Array | None]  # the memory of the parameter and of the rule's states
    step: int
    mu_product: float
    added: dict[str, torch.Tensor]  # what its state lacks, or has in another form


class _Optimizer(torch.optim.Optimizer):
    """What the classes share: the step."""

    _rule: ClassVar[_rules.Rule]
    _tensors: Any = None  # those of the last step, to be stepped again if they stayed as they were
    _is_shared = True  # whether others may hold the state, or parts of it

    def __init__(self, *args: Any, **options: Any) -> None:
        self._lock = _backend.module().Lock()
        super().__init__(*args, **options)
        # torch's fused classes ask a GradScaler to leave its work to them.
        self._step_supports_amp_scaling = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.setdefault("_lock", _backend.module().Lock())
        self.state = state["state"]
        super().__setstate__({key: value for key, value in state.items() if key != "state"})

    # To look at all of the state takes longer than to step 1,000 elements, so it is done
    # only after somebody had it.
    @property
    def state(self) -> Any:
        """Of each parameter, as torch's."""
        state = self._state
        self._is_shared = True
        return state

    @state.setter
    def state(self, value: Any) -> None:
        self._state, self._tensors = value, None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch's does."""
        if isinstance(param_group, dict):  # or torch says so
            _refuse({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Returns
        -------
        object
            What `closure` returned, else None.

        Raises
        ------
        RuntimeError, TypeError, ValueError, KeyError
            A tensor or an option is of a kind that fastadam cannot step; the message names
            it. No parameter, state or step count was changed.
        """
        given = () if closure is None else (closure,)
        if torch.compiler.is_compiling():
            return _uncompiled(self, *given)
        if type(self).step is _Optimizer.step and (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            return self._observed_step(*given)
        return self._step(*given)

    # torch wraps every `step` that lacks this mark in what calls hooks and tells the profiler,
    # 15 us even where there are none. (It has wrapped that of a subclass.)
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._lock.hold():
            threads, is_shared = torch.get_num_threads(), self._is_shared
            if not self._tensors or not self._tensors.step(self.param_groups, is_shared, threads):
                self._tensors = None
                self._step_anew(threads)
                is_shared = True
            if is_shared and self._tensors:
                self._is_shared = False  # until somebody has the state again, now or later
                if self._tensors.is_state_shared():
                    self._is_shared = True
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    def _step_anew(self, most_threads: int) -> None:
        """A step for which all tensors are looked at."""
        groups = [_read_group(group, self._rule.options) for group in self.param_groups]
        members: list[_Member] = []
        for number, group in enumerate(self.param_groups):
            for place, param in enumerate(group["params"]):
                name = f"param_groups[{number}]['params'][{place}]"
                if param.grad is not None:
                    members.append(self._member(name, param, number, groups[number]))
                elif self._state.get(param):  # it may have a gradient at the next step
                    with suppress(RuntimeError, TypeError, ValueError, KeyError):
                        members.append(self._member(name, param, number, groups[number]))
        if all(member.param.grad is None for member in members):
            return
        batch = self._batch(members, len(groups))
        entries = [self._state.get(member.param) for member in members]
        before = [None if entry is None else dict(entry) for entry in entries]
        try:
            for member in members:
                if member.added:
                    self._state.setdefault(member.param, {}).update(member.added)
            tensors = self._watched(batch, members)
            if tensors and tensors.step(self.param_groups, True, most_threads):
                self._tensors = tensors
            else:
                self._step_arrays(batch, members, groups, most_threads)
        finally:
            if not batch.finished:
                for member, entry, content in zip(members, entries, before, strict=True):
                    if entry is None:
                        self._state.pop(member.param, None)
                    else:
                        entry.clear()
                        entry.update(content)

    def _step_arrays(
        self, batch: Any, members: list[_Member], groups: list[Any], most_threads: int
    ) -> None:
        for group, traits in zip(groups, batch.arrays.traits, strict=True):
            group["params"] = traits.params
        grads = [
            None if m.param.grad is None else _gradient(batch.arrays.name(i), m.param.grad)
            for i, m in enumerate(members)
        ]
        batch.step_held(grads, groups, 1.0, most_threads)
        increment_version([member.param for member in members if member.param.grad is not None])
        for member, step, mu_product in zip(members, batch.steps, batch.mu_products, strict=True):
            for count, value in zip(_counts(self._rule), (step, mu_product), strict=False):
                self._state[member.param][count].fill_(value)

    def _member(self, name: str, param: Any, group: int, options: dict[str, Any]) -> _Member:
        rule, entry, added = self._rule, self._state.get(param, {}), {}
        arrays: list[Any] = [_memory(name, param)]
        for number, key in enumerate(rule.states):
            asked = rule.asked.get(key)
            if asked is not None and not options[asked]:
                arrays.append(None)
                continue
            tensor = entry.get(key)
            if tensor is None:
                if entry and asked is None:
                    raise KeyError(f"the state of {name} lacks {key!r}")
                like = arrays[0] if is_plain(arrays[0]) else np.empty_like(arrays[0])
                tensor = added[key] = torch.from_numpy(state_like(like, number))
            arrays.append(_memory(f"{key!r} of {name}", tensor))
        # torch's SGD keeps no step count: it only knows whether there is a buffer.
        counts: dict[str, Any] = {
            "step": int(any(entry.get(key) is not None for key in rule.states))
        }
        for key in _counts(rule):
            if entry and key not in entry:
                raise KeyError(f"the state of {name} lacks {key!r}")
            read, first = (read_step, 0) if key == "step" else (read_product, 1.0)
            counts[key] = read(f"{key!r} of {name}", entry.get(key, first))
            if not _is_count(entry.get(key)):
                added[key] = torch.tensor(counts[key], dtype=torch.float64, device="cpu")
        mu_product = counts.get("mu_product", 1.0)
        return _Member(name, param, group, arrays, counts["step"], mu_product, added)

    def _batch(self, members: list[_Member], n_groups: int) -> Any:
        labelled = []
        for member in members:
            for key, array in zip((None, *self._rule.states), member.arrays, strict=True):
                if array is not None:
                    label = member.name if key is None else f"{key!r} of {member.name}"
                    check_written(label, array, member.arrays[0])
                    labelled.append((label, array))
        check_separate(labelled)
        names = {member.name for member in members}
        arrays = Arrays(
            rule=self._rule,
            spec=list(range(len(members))),
            names=("", "the gradient of "),
            slots=[slot(self._rule, m.arrays, m.group, m.name) for m in members],
            written=[entry for entry in labelled if entry[0] in names]
            + [entry for entry in labelled if entry[0] not in names],
            n_groups=n_groups,
            in_groups=False,
        )
        counts = Counts([m.step for m in members], [m.mu_product for m in members])
        clip = _hyper.check_clip(None, False)
        return _backend.module().Batch(arrays, counts, self._lock, clip)

    def _watched(self, batch: Any, members: list[_Member]) -> Any:
        """The tensors of a batch for the compiled backend, if it can step them by itself."""
        native = _backend.native()
        params = [param for group in self.param_groups for param in group["params"]]
        if (
            native is None
            or EXCHANGE is None
            or any(type(param) not in (torch.Tensor, torch.nn.Parameter) for param in params)
        ):
            return None
        rule = self._rule
        rows: dict[int, Any] = {}
        for member in members:
            entry = self._state.get(member.param, {})
            states = [
                None if array is None else entry[key]
                for key, array in zip(rule.states, member.arrays[1:], strict=True)
            ]
            states += [None] * (native.STATES - len(states))
            counts = [entry[key] for key in _counts(rule)] + [None, None]
            rows[id(member.param)] = (member.param, *states, *counts[:2])
        try:
            return native.Tensors(
                batch, EXCHANGE, torch.Tensor.grad, torch.Tensor, params,
                [rows.get(id(param)) for param in params], self._state,
                [member.param.detach() for member in members], increment_version,
                _read_group, _gradient, _is_aliased,
            )  # fmt: skip
        except NotImplementedError:
            return None


#: Let a compiled training loop call this one as it is.
_uncompiled = torch.compiler.disable(_Optimizer.step)


def _counts(rule: _rules.Rule) -> tuple[str, ...]:
    """What a state has besides arrays."""
    return (("step",) if rule.saves_step else ()) + rule.numbers


def _refuse(options: Any) -> None:
    for key in ("capturable", "differentiable"):
        if options.get(key):
            raise RuntimeError(f"`fastadam` does not support `{key}`")


def _read_group(group: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options of a param group as the core takes them: numbers in place of tensors."""
    _refuse(group)
    options = {name: _number(group[name]) for name in names}
    options["lr"] = _hyper.check_lr(options["lr"])
    return options


def _number(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_number, value))
    return value.item() if isinstance(value, torch.Tensor) else value


def _memory(name: str, tensor: Any) -> Array:
    """The memory of a tensor that a step writes."""
    if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
        raise RuntimeError(
            f"{name}: `fastadam` requires strided Tensors that are not conjugated or negated "
            f"lazily, but it is {tensor.layout} (resolve_conj() and resolve_neg() copy)"
        )
    return _array(name, tensor)


def _array(name: str, tensor: Any) -> Array:
    if tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
        raise RuntimeError(
            f"{name}: `fastadam` requires all the params to be float32, float64, complex64 or "
            "complex128 Tensors of supported devices: ['cpu'] but "
            f"{tensor.dtype} and {tensor.device.type}"
        )
    array: Array = tensor.detach().numpy()  # detached, it keeps the memory, whatever becomes of it
    return array


def _gradient(name: str, grad: torch.Tensor) -> Array | _rows.RowGrad:
    grad = grad.detach()
    if grad.layout == torch.sparse_coo and grad.sparse_dim() == 1:
        return _rows.RowGrad(grad._indices()[0].numpy(), _array(name, grad._values()))
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"{name}: `fastadam` does not support sparse gradients other than an embedding's, "
            "with one sparse dimension"
        )
    return _array(name, grad.resolve_conj().resolve_neg())


def _is_count(value: Any) -> bool:
    """Whether the compiled backend can keep a count there."""
    return (
        type(value) is torch.Tensor
        and (value.dtype, value.device.type, value.ndim) == (torch.float64, "cpu", 0)
        and not (value.requires_grad or value.is_inference())
    )


def _is_aliased(tensor: torch.Tensor, owners: int) -> bool:
    """Whether more than so many own a tensor's memory, or may come to.

    One of them could move it, as `share_memory_` does, and nothing of the tensor would show it.
    """
    storage = tensor.untyped_storage()
    return bool(
        STORAGE_OWNERS is None
        or STORAGE_OWNERS(storage._cdata) > owners + 1  # `storage` is one
        or sys.getrefcount(storage) > 3  # `storage`, the argument, and torch itself
        or weakref.getweakrefcount(tensor)
        or tensor.is_shared()
    )


class _WithEpsilonHat(_Optimizer):
    _rule = _rules.ADAM

    def __init__(self, *args: Any, epsilon_hat: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.defaults["epsilon_hat"] = epsilon_hat
        for group in self.param_groups:
            group.setdefault("epsilon_hat", epsilon_hat)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("epsilon_hat", self.defaults.get("epsilon_hat", False))


class Adam(_WithEpsilonHat, torch.optim.Adam):
    """``torch.optim.Adam``, stepped by fastadam.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay
        As in ``torch.optim.Adam``; so are all methods. ``foreach`` and ``fused`` are ignored.
    epsilon_hat : bool, optional
        Take `eps` as the paper's epsilon-hat, as Keras and scikit-learn do.

    Raises
    ------
    RuntimeError
        ``capturable`` or ``differentiable`` is set.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = fastadam.torch.Adam(model.parameters(), lr=0.01)
    >>> model(torch.ones(2, 3)).square().mean().backward()
    >>> optimizer.step()
    """


class AdamW(_WithEpsilonHat, torch.optim.AdamW):
    """``torch.optim.AdamW``, stepped by fastadam.

    Parameters, errors and methods are those of `Adam`.

    References
    ----------
    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = fastadam.torch.AdamW([w], lr=0.5, weight_decay=0.1)
    >>> w.grad = torch.zeros(2)
    >>> optimizer.step()
    >>> w.data
    tensor([0.9500, 1.9000])
    """


class NAdam(_Optimizer, torch.optim.NAdam):
    """``torch.optim.NAdam``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.NAdam([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.NADAM


class RAdam(_Optimizer, torch.optim.RAdam):
    """``torch.optim.RAdam``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.RAdam([w], lr=0.1)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.RADAM


class Adamax(_Optimizer, torch.optim.Adamax):
    """``torch.optim.Adamax``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 2.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.Adamax([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.ADAMAX


class RMSprop(_Optimizer, torch.optim.RMSprop):
    """``torch.optim.RMSprop``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    Centered, it takes ``maximum(square_avg - grad_avg**2, 0)``, where torch's own gives NaN when
    rounding brings the difference below zero.

    References
    ----------
    Tieleman & Hinton, "Neural Networks for Machine Learning", lecture 6.5, 2012.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.RMSprop([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.RMSPROP


class SGD(_Optimizer, torch.optim.SGD):
    """``torch.optim.SGD``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    With a momentum, the sparse gradient of an embedding leaves the buffers of other rows as
    they are, where torch's own moves those rows, too.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.SGD([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.SGD
