from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from fastadam import _rules
from fastadam._arrays import Arrays
from fastadam._codecs import codes_of, keep_master, master_of
from fastadam._guard import at_once
from fastadam._hyper import Group, Schedule
from fastadam._quiet import quietly
from fastadam._rules.schedule_free import moved_towards
from fastadam._slots import Slot
from fastadam._types import Array, ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer


class AdamWScheduleFree(Optimizer):
    """AdamW that needs no schedule of the learning rate, for NumPy arrays, in place.

    Gradients are taken at one point, and the model is evaluated at another, an average over all
    steps, which is where a schedule that falls to zero would have brought it. The parameters
    are the first point while you train. For the second, `eval` moves them there and `train`
    back; or use `averaged_params` and `use_averaged_params`, as with the other members.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        The arrays that `step` changes in place; see `Adam`.
    lr : float or callable, optional
        Learning rate, or a function of the number of finished steps that gives it, such as
        those of `schedules`.
    betas : (float, float), optional
        How near to the average gradients are taken, in (0, 1), where 1 is the average itself;
        and the decay rate of the second moment, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient once that is divided by the root
        of its second moment.
    warmup_steps : float, optional
        So many steps it takes for the learning rate to grow to `lr`, linearly; `current_lr` does
        not show it.
    r : float, optional
        A step t counts ``t**r`` in the average; from 0 to 16.
    weight_lr_power : float, optional
        And besides the largest learning rate so far to this power; from 0 to 16.
    maximize : bool, optional
        Step along the gradient, not against it.
    max_grad_norm : float, optional
        Clip: scale the gradients of a step down to this global L2 norm if theirs is larger;
        see `Adam`.
    skip_nonfinite : bool, optional
        Leave out a step with a NaN or an infinity in any gradient, as it is or once divided
        by the loss scale (and clipped), or a norm that overflows: it changes nothing and
        counts in `skipped_steps`.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the second moment is stored; see `Adam`. The other array of state, z, is as exact
        as a parameter.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits; see `Adam`.

    Raises
    ------
    TypeError, ValueError, KeyError
        An array or an option does not fit; the message names it.

    Notes
    -----
    With v, root and denom as in `Adam`; p is the paper's y, and its x is not stored::

        z      = p                                   # before the first step
        update = g/denom + weight_decay*p
        p      = p + share*(z - p) - grad_step*update
        z      = z - lr*update
        x      = p + (1 - 1/b1)*(z - p)              # the average

    where a step's ``share`` is its weight, ``t**r * lr_max**weight_lr_power``, divided by the sum
    of all up to now, and ``grad_step = lr*(1 - b1*(1 - share))``. During the warmup `lr` is
    ``lr*t/warmup_steps``. The two sums, ``weight_sum`` and ``lr_max``, are kept for each array,
    which counts its own steps.

    `eval` and `train` round the parameters each time, as in the package schedulefree; after
    `use_averaged_params` they have the very bits that they had. A state dict says in which mode it
    was taken, and `load_state_dict` takes that over, as the parameters come from elsewhere.

    What a model gathers while it trains, such as the means of batch normalization, belongs to
    the point where gradients are taken. Gather it anew after `eval`.

    A `RowGrad` is an error: the weight of a step in the average is the same for all rows.

    References
    ----------
    Defazio et al., "The Road Less Scheduled", arXiv:2405.15682, algorithm 1 and section 4, in the
    form of ``schedulefree.AdamWScheduleFree``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.AdamWScheduleFree(w, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * w)
    >>> opt.eval()
    >>> bool(np.abs(w).max() < 1e-2)
    True
    >>> opt.train()  # before the next step
    """

    _rule = _rules.SCHEDULE_FREE
    _fixed: ClassVar[Group] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        options: Group = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
            **self._fixed,
            "maximize": maximize,
            "train_mode": True,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, None)

    def eval(self) -> None:
        """Move the parameters to the average, where the model is evaluated.

        A step is an error until `train` is called. If they are there, nothing changes.

        Raises
        ------
        ValueError
            A parameter was replaced, resized or made read-only, or an option does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> import fastadam
        >>> w = np.ones(1)
        >>> opt = fastadam.AdamWScheduleFree(w, lr=0.1)
        >>> for _ in range(2):
        ...     opt.step(np.ones(1))
        >>> opt.eval()
        >>> w.round(6)
        array([0.85])
        """
        self._set_train_mode(False)

    def train(self) -> None:
        """Move the parameters to where gradients are taken, before steps.

        If they are there, nothing changes.

        Raises
        ------
        ValueError
            As in `eval`.

        Examples
        --------
        See `AdamWScheduleFree`.
        """
        self._set_train_mode(True)

    def _set_train_mode(self, train_mode: bool) -> None:
        with self._lock.hold():
            arrays = self._held_batch().arrays
            hypers = arrays.check_groups(self.param_groups)
            arrays.check_nest()
            changes: list[Callable[[], object]] = []
            for i, slot in enumerate(arrays.slots):
                beta1 = hypers[slot.group].beta1
                share = 1 - beta1 if train_mode else 1 - 1 / beta1
                if self.param_groups[slot.group]["train_mode"] is train_mode or not self._has_z(i):
                    continue
                arrays.check_param(i)
                changes += moves(codes_of(slot.view), slot.state[0], slot.rest, share)
            changes += [
                partial(dict.__setitem__, group, "train_mode", train_mode)
                for group in self.param_groups
            ]
            at_once(changes)()

    def _has_z(self, i: int) -> bool:
        """Whether an array was stepped, so that the two points lie apart."""
        return bool(self._batch.steps[i])

    def _averages(self, arrays: Arrays) -> list[Array]:
        return averages_of(arrays, self.param_groups, self._batch.steps)


def averages_of(arrays: Arrays, groups: Sequence[Group], steps: Sequence[int]) -> list[Array]:
    """Where the model is evaluated, for arrays that have finished so many steps each."""
    hypers = arrays.check_groups(groups)
    averages = []
    for slot, step in zip(arrays.slots, steps, strict=True):
        has_moved = groups[slot.group]["train_mode"] and step
        averages.append(average_of(slot, hypers[slot.group].beta1 if has_moved else None))
    return averages


def average_of(slot: Slot, beta1: float | None) -> Array:
    """Where the model is evaluated; None: that is where the parameter is."""
    param = np.asarray(quietly(master_of, codes_of(slot.view), slot.rest))
    if beta1 is None:
        return param
    average: Array = quietly(moved_towards, param, slot.state[0], 1 - 1 / beta1)
    return average


def moves(param: Array, z: Array, rest: Array | None, share: float) -> list[Callable[[], object]]:
    """Calls of C that move a parameter so far towards z, and what it lacks of a float32."""
    new = param.copy(order="K")
    new_rest = None if rest is None else rest.copy(order="K")
    numbers = quietly(moved_towards, quietly(master_of, new, new_rest), z, share)
    if rest is None:
        new[...] = numbers
        return [partial(param.__setitem__, ..., new)]
    quietly(keep_master, numbers, new, new_rest)
    return [partial(param.__setitem__, ..., new), partial(rest.__setitem__, ..., new_rest)]
