from __future__ import annotations

from fastadam import _rules
from fastadam._hyper import Group, Schedule
from fastadam._types import ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer


class NAdam(Optimizer):
    """Adam with Nesterov momentum, for NumPy arrays, in place.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        The arrays that `step` changes in place; see `Adam`.
    lr : float or callable, optional
        Learning rate, or a function of the number of finished steps that gives it, such as
        those of `schedules`.
    betas : (float, float), optional
        Decay rates of the first and second moment, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty. With
        `decoupled_weight_decay`, ``lr * weight_decay`` times the parameter is subtracted
        from the parameter instead.
    momentum_decay : float, optional
        The momentum of step t is ``mu_t = beta1 * (1 - 0.5*0.96**(t*momentum_decay))``.
    decoupled_weight_decay : bool, optional
        Decay as AdamW does.
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
    With m, v, root and denom as in `Adam`, and M_t the product of mu_1 to mu_t::

        p = p*keep - (step_size*m + grad_step*g)/denom

    where ``step_size = lr*mu_(t+1)/(1 - M_(t+1))`` and ``grad_step = lr*(1 - mu_t)/(1 - M_t)``.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop, in the form of
    ``torch.optim.NAdam``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.NAdam(w, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 1e-2)
    True
    """

    _rule = _rules.NADAM

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
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
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)
