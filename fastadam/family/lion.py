from __future__ import annotations

from typing import ClassVar

from fastadam import _rules
from fastadam._hyper import Group, Schedule
from fastadam._types import ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer


class Lion(Optimizer):
    """Steps of one size by the sign of a momentum, for NumPy arrays, in place.

    It keeps one array of state, where Adam keeps two. As every element moves by `lr` at each
    step, the paper takes a learning rate 3 to 10 times smaller than AdamW's, and a weight decay
    as many times larger.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        The arrays that `step` changes in place; see `Adam`.
    lr : float or callable, optional
        Learning rate: how far each element moves at a step; or a function of the number of
        finished steps that gives it, such as those of `schedules`.
    betas : (float, float), optional
        In [0, 1). The first is the share of the momentum in the direction of a step, beside
        the gradient's; the second is the decay rate of the momentum.
    weight_decay : float, optional
        ``lr * weight_decay`` times the parameter is subtracted from it at each step.
    maximize : bool, optional
        Step along the gradient, not against it.
    max_grad_norm : float, optional
        Clip: scale the gradients of a step down to this global L2 norm if theirs is larger;
        see `Adam`.
    skip_nonfinite : bool, optional
        Leave out a step with a NaN or an infinity in any gradient, as it is or once divided
        by the loss scale (and clipped), or a norm that overflows: it changes nothing and
        counts in `skipped_steps`.
    ema_decay : float, optional
        Keep a moving average of the parameters; see `averaged_params`.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the momentum is stored; see `Adam`. There is no second moment here in whose units
        8 bits could be: where gradients of a block differ a hundred times and more, the signs of
        the smallest are partly noise.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits; see `Adam`.

    Raises
    ------
    TypeError, ValueError, KeyError
        An array or an option does not fit; the message names it.

    Notes
    -----
    ::

        direction = sign(b1*m + (1 - b1)*g)    # 1, -1 or 0
        m         = b2*m + (1 - b2)*g
        p         = p*keep - lr*direction

    with ``keep = 1 - lr*weight_decay``. Where that sum is smaller than the dtype's smallest normal
    number (1e-38 in float32, 2e-308 in float64), its direction is between -1 and 1. Of complex
    numbers, real and imaginary parts have signs of their own. Rows that a `RowGrad` leaves out stay
    as they are, and so does their momentum.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.Lion(w, lr=0.125)
    >>> for _ in range(8):
    ...     opt.step(2 * w)
    >>> w
    array([0., 0.])
    """

    _rule = _rules.LION
    _fixed: ClassVar[Group] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        ema_decay: float | None = None,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        options: Group = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            **self._fixed,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)
