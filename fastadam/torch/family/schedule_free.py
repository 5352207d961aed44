from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastadam import _rules
from fastadam._guard import at_once
from fastadam.family.schedule_free import moves
from fastadam.torch._memory import rest_array
from fastadam.torch._optimizer import (
    INCREMENT_VERSIONS,
    Base,
    Optimizer,
    check_unmoved,
    versioned,
    written_by,
)
from fastadam.torch._options import check_group, name_of


class AdamWScheduleFree(Optimizer, Base):
    """`fastadam.AdamWScheduleFree`, AdamW that needs no schedule of the learning rate, for tensors.

    Gradients are taken at one point, and the model is evaluated at another, an average over all
    steps. The parameters are the first point while you train; `eval` moves them to the second
    and `train` back.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate.
    betas : (float, float), optional
        How near to the average gradients are taken, in (0, 1), where 1 is the average itself;
        and the decay rate of the second moment, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient once that is divided by the root
        of its second moment.
    warmup_steps : float, optional
        So many steps it takes for the learning rate to grow to `lr`, linearly.
    r : float, optional
        A step t counts ``t**r`` in the average; from 0 to 16.
    weight_lr_power : float, optional
        And besides the largest learning rate so far to this power; from 0 to 16.
    maximize : bool, optional
        Step along the gradient, not against it.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the second moment is stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state. The other array of
        state, z, is as exact as a parameter.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16.
    TypeError, ValueError
        An option or the parameters do not fit; the message names it.

    Notes
    -----
    It is in training mode from the beginning, where the class of the package schedulefree is
    not. State dicts say in which mode they were taken, as there; the parameters belong to it.
    `eval` and `train` round the parameters each time.

    `load_state_dict` takes what the package's class gives, and that takes
    ``state_dict(decoded=True)``. It counts steps and their weights for a param group, and here
    that is done for each parameter: so each gets its group's counts, and in the other direction
    the group gets those of the parameter that was stepped most.

    Batch normalization gathers means and variances where gradients are taken, and they do not fit
    the model at the other point. Gather them anew after `eval`: show the model, in its training
    mode and within ``torch.no_grad()``, some batches before you evaluate it.

    The sparse gradient of an embedding is an error.

    References
    ----------
    Defazio et al., "The Road Less Scheduled", arXiv:2405.15682, algorithm 1, in the form of
    ``schedulefree.AdamWScheduleFree``.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.AdamWScheduleFree([w], lr=0.1)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> bool(w.abs().max() < 1e-2)
    True
    >>> optimizer.train()  # before the next step
    """

    _rule = _rules.SCHEDULE_FREE
    _fixed: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            maximize=maximize,
            train_mode=True,
            state_dtype=state_dtype,
            seed=seed,
            **self._fixed,
        )

    def eval(self) -> None:
        """Move the parameters to the average, where the model is evaluated.

        A step is an error until `train` is called. If they are there, nothing changes.

        Raises
        ------
        RuntimeError, TypeError, ValueError, KeyError
            A tensor or an option does not fit; the message names it. Nothing was changed.

        Examples
        --------
        >>> import torch
        >>> import fastadam.torch
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = fastadam.torch.AdamWScheduleFree([w], lr=0.1)
        >>> w.grad = torch.ones(1)
        >>> for _ in range(2):
        ...     optimizer.step()
        >>> optimizer.eval()
        >>> w.data
        tensor([0.8500])
        """
        self._set_train_mode(False)

    def train(self) -> None:
        """Move the parameters to where gradients are taken, before steps.

        If they are there, nothing changes.

        Raises
        ------
        RuntimeError, TypeError, ValueError, KeyError
            As in `eval`.

        Examples
        --------
        See `AdamWScheduleFree`.
        """
        self._set_train_mode(True)

    def _set_train_mode(self, train_mode: bool) -> None:
        kept = self._kept
        with kept.lock.hold():
            # To read options may run other people's code, so tensors are looked at afterwards.
            groups = list(self.param_groups)
            read = [check_group(group, number, self._rule) for number, group in enumerate(groups)]
            members = [
                self._member(name_of(number, place), param, number, options, None, entry)
                for number, (group, options) in enumerate(zip(groups, read, strict=True))
                if options["train_mode"] is not train_mode
                for place, param in enumerate(group["params"])
                if (entry := kept.state.get(param))
            ]
            members = [member for member in members if member.step]  # others are at both points
            written_by(members)
            changes: list[Callable[[], object]] = []
            for member in members:
                beta1 = read[member.group]["betas"][0]
                share = 1 - beta1 if train_mode else 1 - 1 / beta1
                param, z, _, rest = cast(list[Any], member.tensors)
                lacks = None if rest is None else rest_array(rest)
                changes += moves(param.array, z.array, lacks, share)
                if member.added:  # such as what half precision lacks
                    changes.append(partial(kept.state[member.param].update, member.added))
                    changes.append(partial(setattr, kept, "tensors", None))
            changes.append(partial(INCREMENT_VERSIONS, versioned(members)))
            changes += [
                partial(dict.__setitem__, group, "train_mode", train_mode) for group in groups
            ]
            check_unmoved(members)
            at_once(changes)()
