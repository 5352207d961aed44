from __future__ import annotations

from fastadam import _rules
from fastadam._hyper import Group, Schedule
from fastadam._types import ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer


class RMSprop(Optimizer):
    """RMSprop for NumPy arrays, in place; also centered and with momentum.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        The arrays that `step` changes in place; see `Adam`.
    lr : float or callable, optional
        Learning rate, or a function of the number of finished steps that gives it, such as
        those of `schedules`.
    alpha : float, optional
        Decay rate of the averages, at least 0.
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty.
    momentum : float, optional
        How much of the last update is kept in the next one, at least 0; 0 is without
        momentum.
    centered : bool, optional
        Divide by an estimate of the standard deviation.
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
        How the arrays of state are stored; see `Adam`.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits; see `Adam`.

    Raises
    ------
    TypeError, ValueError, KeyError
        An array or an option does not fit; the message names it.

    Notes
    -----
    ::

        v      = alpha*v + (1 - alpha)*(g*g)
        mean   = alpha*mean + (1 - alpha)*g                # centered only
        denom  = sqrt(v) + eps                             # not centered
        denom  = sqrt(maximum(v - mean*mean, 0)) + eps     # centered
        p      = p - (lr*g)/denom                          # without momentum
        buffer = momentum*buffer + g/denom                 # with momentum
        p      = p - lr*buffer                             # with momentum

    torch has no maximum, and gives NaN where rounding brings the difference below zero.

    References
    ----------
    Tieleman & Hinton, "Neural Networks for Machine Learning", lecture 6.5, 2012; centered:
    Graves, "Generating Sequences With Recurrent Neural Networks", arXiv:1308.0850,
    equations 38-45; in the form of ``torch.optim.RMSprop``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.RMSprop(w, lr=0.01, momentum=0.5)
    >>> for _ in range(300):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 0.1)
    True
    """

    _rule = _rules.RMSPROP

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
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
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)
