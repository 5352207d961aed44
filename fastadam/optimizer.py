"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastadam import _backend, _hyper, _tree
from fastadam._arrays import Arrays, Counts, Slot, check_separate, check_written, slot, zeros_like
from fastadam._hyper import Group, Schedule
from fastadam._state import NAMES, Leaf, read_state


class Adam:
    """The Adam optimizer for NumPy arrays, in place.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        Arrays of any shape, float32, float64, complex64 or complex128 (of
        which real and imaginary parts are separate parameters). They are
        changed in place by `step`. A param group is a dict with a ``"params"``
        entry and any of the options below, which then hold for that group.
    lr : float or callable, optional
        Learning rate, or a function that gives it for a number of finished steps.
    betas : (float, float), optional
        Decay rates of the first and second moment, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        Times the parameter, is added to the gradient (L2 penalty), or with
        `decoupled_weight_decay`, times ``lr``, taken from the parameter.
    amsgrad : bool, optional
        Divide by the largest second moment so far.
    maximize : bool, optional
        Step along the gradient, not against it.
    decoupled_weight_decay : bool, optional
        Decay as AdamW does.
    epsilon_hat : bool, optional
        Take `eps` as the paper's epsilon-hat, added before the bias correction
        of the second moment: the form of scikit-learn, Keras and others.
    max_grad_norm : float, optional
        Clip: scale the gradients of a step by
        ``min(1, max_grad_norm / (grad_norm + 1e-6))`` where their global L2 norm
        is `grad_norm`, as ``torch.nn.utils.clip_grad_norm_`` does. The
        gradients themselves are not written.
    skip_nonfinite : bool, optional
        Leave out a step with a NaN or an infinity in any gradient, or a norm
        that overflows: it changes nothing and counts in `skipped_steps`.

    Attributes
    ----------
    param_groups : list of dict
        As in torch.optim. Edit ``"lr"`` and the others between steps; they are
        stored as plain numbers and checked at the next step.

    Raises
    ------
    TypeError, ValueError, KeyError
        An array or an option does not fit; the message names it.

    Notes
    -----
    Per element, in the array's own dtype, every operation rounded once::

        g     = grad * grad_factor         # 1/loss_scale, negative to maximize
        g     = g + weight_decay*p         # coupled decay only
        m     = b1*m + (1 - b1)*g
        v     = b2*v + (1 - b2)*(g*g)
        m, v  = 0 where smaller than the smallest normal number
        s     = vmax = maximum(vmax, v)    # amsgrad; otherwise s = v
        denom = sqrt(s)*root + eps
        p     = p*keep - (step_size*m)/denom

    with ``step_size = lr / (1 - b1**t)``, ``root = 1 / sqrt(1 - b2**t)`` and
    ``keep = 1 - lr*weight_decay`` if decoupled, else 1.

    State is allocated here: two arrays (three for AMSGrad) of each parameter's
    size. An array that is a strided or unaligned view costs another.

    References
    ----------
    .. [1] Kingma & Ba, "Adam: A Method for Stochastic Optimization",
       arXiv:1412.6980, algorithm 1.
    .. [2] Reddi, Kale & Kumar, "On the Convergence of Adam and Beyond",
       arXiv:1904.09237, algorithm 2 (AMSGrad).

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> params = {"w": np.array([3.0, -2.0]), "b": np.zeros(())}
    >>> opt = fastadam.Adam(params, lr=0.1)
    >>> for _ in range(300):  # minimize (w . w)/2 + (b - 1)**2
    ...     opt.step({"w": params["w"], "b": 2 * (params["b"] - 1)})
    >>> np.allclose(params["w"], 0, atol=1e-3), np.allclose(params["b"], 1, atol=1e-3)
    (True, True)
    """

    param_groups: list[Group]
    _batch: Any  # of self._backend
    _fixed: ClassVar[Group] = {}  # options that a loaded state dict does not change

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        epsilon_hat: bool = False,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        self.defaults: Group = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
            "epsilon_hat": epsilon_hat,
        }
        _hyper.check_group({**self.defaults, "params": ()}, _hyper.Traits(False, True, ()))
        self._clip = _hyper.check_clip(max_grad_norm, skip_nonfinite)
        self.param_groups = []
        self._specs: list[_tree.Spec] = []
        self._leaves: list[Leaf] = []
        self._slots: list[Slot] = []
        self._backend = _backend.module()
        self._lock = self._backend.Lock()
        self._batch = None
        self._grouped = _is_groups(params)
        self._add(params if self._grouped else [{"params": params}])

    def step(self, grads: Any, *, loss_scale: float = 1.0) -> None:
        """Change the parameters by one step against their gradients.

        Parameters
        ----------
        grads : ndarray, or nesting of ndarray as the parameters'
            Gradients, of the parameters' shapes and dtypes; with param groups a
            list with one entry for each group. None in place of a gradient
            skips that array and its step count. Gradients are only read and may
            be in any memory layout.
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
        while not self._batch.step(grads, self.param_groups, loss_scale):
            pass  # another thread replaced the batch, by loading a state dict, say

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
        with self._lock:
            self._batch.check_whole()
            steps = self._batch.steps
            state = {
                leaf.key: {
                    "step": step,
                    **{
                        name: array.copy(order="K")
                        for name, array in zip(NAMES, slot.state, strict=False)
                    },
                }
                for leaf, slot, step in zip(self._leaves, self._slots, steps, strict=True)
            }
            keys: list[list[Any]] = [[] for _ in self.param_groups]
            for leaf in self._leaves:
                keys[leaf.group].append(leaf.key)
            groups = [
                {
                    **{key: value for key, value in group.items() if key != "params"},
                    "finished_steps": self._batch.finished,
                    "skipped_steps": self._batch.skipped,
                    "params": keys[i],
                }
                for i, group in enumerate(self.param_groups)
            ]
            return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state, step counts and options.

        Parameters
        ----------
        state_dict : dict
            From `state_dict`, or from torch.optim.Adam for as many parameters
            of equal shapes and dtypes in the same order. An array without
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
        with self._lock:
            self._batch.check_whole()
            loaded = read_state(state_dict, self._leaves, self._slots, self.param_groups)
            for group in loaded.groups:
                group.update(self._fixed)
            arrays = self._arrange(self._specs, self._leaves, loaded.slots, self._grouped)
            arrays.check_groups(loaded.groups)
            self._replace(self._backend.Batch(arrays, loaded.counts, self._lock, self._clip))
            self._slots = loaded.slots
            for group, new in zip(self.param_groups, loaded.groups, strict=True):
                group.update(new)

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
            bare = slot([leaf.array], leaf.group)
            count = 3 if param_groups[leaf.group]["amsgrad"] else 2
            slots.append(
                bare._replace(state=tuple(zeros_like(bare.param, k) for k in range(count)))
            )
        laid = self._arrange(specs, leaves, slots, grouped)
        laid.check_groups(param_groups)
        counts = self._counts() if old else Counts([])
        counts.steps.extend([0] * (len(leaves) - old))
        self._replace(self._backend.Batch(laid, counts, self._lock, self._clip))
        self._specs, self._leaves, self._slots = specs, leaves, slots
        self.param_groups[:] = param_groups
        self._grouped = grouped

    def _arrange(
        self, specs: list[_tree.Spec], leaves: list[Leaf], slots: list[Slot], grouped: bool
    ) -> Arrays:
        return Arrays(
            spec=specs if grouped else specs[0],
            names=("params", "grads"),
            suffixes=[leaf.suffix for leaf in leaves],
            params=[leaf.array for leaf in leaves],
            slots=slots,
            written=[leaf.array for leaf in leaves],
            n_groups=len(specs),
        )

    def _replace(self, batch: Any) -> None:
        """Take another batch; steps that wait for the old one will see that it is retired."""
        old, self._batch = self._batch, batch
        if old is not None:
            old.retire()

    def _counts(self) -> Counts:
        return Counts(list(self._batch.steps), self._batch.finished, self._batch.skipped)

    def _single_group(self) -> Group:
        if len(self.param_groups) != 1:
            raise AttributeError(
                f"there are {len(self.param_groups)} param groups; "
                "use opt.param_groups[i]['lr'] instead of opt.lr"
            )
        return self.param_groups[0]

    def __repr__(self) -> str:
        options = {k: v for k, v in self.param_groups[0].items() if k != "params"}
        text = ", ".join(f"{key}={value!r}" for key, value in options.items())
        more = f", {len(self.param_groups)} groups" if len(self.param_groups) > 1 else ""
        return f"{type(self).__name__}({len(self._leaves)} arrays{more}, {text})"


class AdamW(Adam):
    """Adam with decoupled weight decay.

    The same as `Adam` with ``decoupled_weight_decay=True``; see there for the
    parameters, errors and methods. A step takes ``lr * weight_decay`` times the
    parameter from it, and the decay does not enter the moments.

    References
    ----------
    Loshchilov & Hutter, "Decoupled Weight Decay Regularization",
    arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> opt = fastadam.AdamW(w, lr=0.5, weight_decay=0.1)
    >>> opt.step(np.zeros(2))
    >>> w
    array([0.95, 1.9 ])
    """

    _fixed: ClassVar[Group] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        epsilon_hat: bool = False,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
            epsilon_hat=epsilon_hat,
            max_grad_norm=max_grad_norm,
            skip_nonfinite=skip_nonfinite,
        )


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
