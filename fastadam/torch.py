"""PyTorch's optimizers for tensors on the CPU, stepped by fastadam.

`Adam`, `AdamW`, `NAdam`, `RAdam`, `Adamax`, `RMSprop` and `SGD` are subclasses of those of
``torch.optim``: constructors, param groups, hooks, schedulers, ``GradScaler("cpu")`` and state
dicts, which load both ways, are torch's. A step is one call of C, in place.

What differs from torch's own:

- Steps follow fastadam's rule, exact to the bit whatever the layout, threads or instruction set.
- The step count in a state is a float64 tensor, which does not stop at 2**24.
- The sparse gradient of an embedding changes only the rows that it has, as
  ``torch.optim.SparseAdam`` does, and their state; those of other rows do not decay.
- Gradients and parameters may have any strides, and they need not be alike.
- ``foreach`` and ``fused`` choose nothing here; ``capturable`` and ``differentiable`` raise an
  error, and so do tensors on other devices or of other dtypes than float32, float64, complex64
  and complex128.

A step uses at most ``torch.get_num_threads()`` and `fastadam.get_num_threads` threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from fastadam import _backend, _hyper, _rows, _rules
from fastadam._arrays import (
    Arrays,
    Counts,
    check_separate,
    check_written,
    is_plain,
    slot,
    state_like,
)
from fastadam._state import read_product, read_step
from fastadam._types import Array

try:
    import torch
    from torch.optim.optimizer import (
        _global_optimizer_post_hooks,
        _global_optimizer_pre_hooks,
    )
except ImportError as error:
    raise ImportError("fastadam.torch needs PyTorch: pip install torch") from error

__all__ = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
#: How the compiled backend asks tensors where they lie; before 2.10 torch had none.
EXCHANGE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)


class _Member(NamedTuple):
    """A parameter that has a gradient, or had one."""

    name: str
    param: torch.Tensor
    group: int
    arrays: list[Array | None]  # the memory of the parameter and of the rule's states
    grad: Array | _rows.RowGrad | None
    step: int
    mu_product: float
    added: dict[str, torch.Tensor]  # what its state lacks


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
        self._is_shared = True
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        self._state, self._tensors = value, None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch's does."""
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
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            return self._observed_step(closure)
        return self._step(closure)

    # torch wraps every `step` that lacks this mark in what calls hooks and tells the profiler,
    # 15 us even where there are none.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._lock:
            tensors, threads = self._tensors, torch.get_num_threads()
            if not tensors or not tensors.step(self.param_groups, self._is_shared, threads):
                self._tensors = None
                self._step_arrays(threads)
            if self._is_shared and self._tensors:
                self._is_shared = self._tensors.is_state_shared()
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_step)

    def _step_arrays(self, most_threads: int) -> None:
        """A step of tensors of any kind, as arrays."""
        groups = [_read_group(group, self._rule.options) for group in self.param_groups]
        members: list[_Member] = []
        for number, group in enumerate(self.param_groups):
            for place, param in enumerate(group["params"]):
                if param.grad is not None or self._state.get(param):
                    name = f"param_groups[{number}]['params'][{place}]"
                    members.append(self._member(name, param, number, groups[number]))
        if all(member.grad is None for member in members):
            return
        batch = self._batch(members, len(groups))
        for group, traits in zip(groups, batch.arrays.traits, strict=True):
            group["params"] = traits.params
        batch.step([member.grad for member in members], groups, 1.0, most_threads)
        for member, step, mu_product in zip(members, batch.steps, batch.mu_products, strict=True):
            entry = self._state.setdefault(member.param, {})
            entry.update(member.added)
            for count, value in (("step", step), ("mu_product", mu_product)):
                if count in entry:
                    entry[count].fill_(value)
        self._tensors = self._watched(batch, members)

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
        if rule.saves_step:
            counts = {"step": 0.0, **dict.fromkeys(rule.numbers, 1.0)}
            for key, first in counts.items():
                if entry and key not in entry:
                    raise KeyError(f"the state of {name} lacks {key!r}")
                read = read_step if key == "step" else read_product
                counts[key] = read(f"{key!r} of {name}", entry.get(key, first))
                if not _is_count(entry.get(key)):
                    added[key] = torch.tensor(counts[key], dtype=torch.float64)
        else:  # torch's SGD only knows whether it has a buffer
            counts = {"step": int(any(entry.get(key) is not None for key in rule.states))}
        grad = None if param.grad is None else _gradient(f"the gradient of {name}", param.grad)
        return _Member(
            name, param, group, arrays, grad, int(counts["step"]), counts.get("mu_product", 1.0),
            added,
        )  # fmt: skip

    def _batch(self, members: list[_Member], n_groups: int) -> Any:
        labelled = []
        for member in members:
            for key, array in zip((None, *self._rule.states), member.arrays, strict=True):
                if array is not None:
                    label = member.name if key is None else f"{key!r} of {member.name}"
                    check_written(label, array, member.arrays[0])
                    labelled.append((label, array))
        check_separate(labelled)
        arrays = Arrays(
            rule=self._rule,
            spec=list(range(len(members))),
            names=("", "the gradient of "),
            suffixes=[member.name for member in members],
            params=[cast(Array, member.arrays[0]) for member in members],
            slots=[slot(self._rule, member.arrays, member.group) for member in members],
            written=[array for _, array in labelled],
            n_groups=n_groups,
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
            or any(slot.copies for slot in batch.arrays.slots)
            or any(type(param) not in (torch.Tensor, torch.nn.Parameter) for param in params)
        ):
            return None
        rule = self._rule
        rows: dict[int, Any] = {}
        for member in members:
            entry = self._state[member.param]
            states = [
                None if array is None else entry[key]
                for key, array in zip(rule.states, member.arrays[1:], strict=True)
            ]
            states += [None] * (native.STATES - len(states))
            counts = entry.get("step"), entry.get("mu_product")
            rows[id(member.param)] = (member.param, *states, *counts)
        try:
            return native.Tensors(
                batch, EXCHANGE, torch.Tensor, params, [rows.get(id(p)) for p in params],
                self._state, _read_group, _gradient,
            )  # fmt: skip
        except NotImplementedError:
            return None


def _refuse(options: dict[str, Any]) -> None:
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
    if tensor.device.type != "cpu" or tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        raise RuntimeError(
            f"{name}: `fastadam` requires all the params to be strided Tensors of float32, "
            "float64, complex64 or complex128 and of supported devices: ['cpu'] but "
            f"{tensor.layout}, {tensor.dtype} and {tensor.device.type}"
        )
    array: Array = tensor.detach().numpy()  # detached, it keeps the memory, whatever becomes of it
    return array


def _gradient(name: str, grad: torch.Tensor) -> Array | _rows.RowGrad:
    grad = grad.detach()
    if grad.layout == torch.sparse_coo and grad.sparse_dim() == 1:
        return _rows.RowGrad(grad._indices()[0].numpy(), grad._values().numpy())
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"{name}: `fastadam` does not support sparse gradients other than an embedding's, "
            "with one sparse dimension"
        )
    array: Array = grad.resolve_conj().resolve_neg().numpy()
    return array


def _is_count(value: Any) -> bool:
    """Whether the compiled backend can keep a count there."""
    return type(value) is torch.Tensor and value.dtype == torch.float64 and value.ndim == 0


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
