from __future__ import annotations

from typing import ClassVar

from fastadam import _rules
from fastadam._hyper import Group, Schedule
from fastadam._types import ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer


class AdEMAMix(Optimizer):
    """AdamW with a second, slow momentum, for NumPy arrays, in place.

    Old gradients, thousands of steps back, still tell where to go: a slow momentum keeps them,
    beside the fast one that is Adam's. It is for long trainings; with fewer than some ten
    thousand steps take a smaller third beta, such as 0.999.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        The arrays that `step` changes in place; see `Adam`.
    lr : float or callable, optional
        Learning rate, or a function of the number of finished steps that gives it, such as
        those of `schedules`.
    betas : (float, float, float), optional
        Decay rates of the first and second moment, and of the slow momentum, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        ``lr * weight_decay`` times the parameter is subtracted from it at each step.
    alpha : float, optional
        How much the slow momentum counts beside the fast one.
    t_alpha : float or None, optional
        So many steps it takes for `alpha` to grow from 0, linearly; None: it is constant. The
        paper takes the length of the training, for this and the next.
    t_beta3 : float or None, optional
        So many steps it takes for the third beta to grow from the first one to its value, so
        that the half-life of the slow momentum grows linearly; None: it is constant.
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
        How the arrays of state are stored; see `Adam`. What is rounded stays in a slow
        momentum for long: in 8 bits it has some noise.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits; see `Adam`.

    Raises
    ------
    TypeError, ValueError, KeyError
        An array or an option does not fit; the message names it.

    Notes
    -----
    With v, root and denom as in `Adam`::

        fast = b1*fast + (1 - b1)*g
        slow = b3*slow + (1 - b3)*g
        p    = p*keep - (step_size*fast + slow_step*slow)/denom

    where ``step_size = lr / (1 - b1**t)``, ``slow_step = lr*alpha`` and
    ``keep = 1 - lr*weight_decay``. Until the step t reaches `t_alpha`, alpha is
    ``alpha*t/t_alpha``. Until it reaches `t_beta3`, b3 is the decay rate whose half-life is
    ``t/t_beta3`` of the way from that of b1 to that of b3, but never above b3. (The authors'
    program takes the half-lives of ``beta + 1e-8``, of which the paper says nothing.)

    Rows that a `RowGrad` leaves out stay as they are, and so do their moments.

    References
    ----------
    Pagliardini, Ablin & Grangier, "The AdEMAMix Optimizer: Better, Faster, Older",
    arXiv:2409.03137, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.AdEMAMix(w, lr=0.01, betas=(0.9, 0.999, 0.99))
    >>> for _ in range(500):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 1e-2)
    True
    """

    _rule = _rules.ADEMAMIX
    _fixed: ClassVar[Group] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        alpha: float = 5.0,
        t_alpha: float | None = None,
        t_beta3: float | None = None,
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
            "eps": eps,
            "weight_decay": weight_decay,
            "alpha": alpha,
            "t_alpha": t_alpha,
            "t_beta3": t_beta3,
            **self._fixed,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)
