from __future__ import annotations

from fastadam import _rules
from fastadam._hyper import Group, Schedule
from fastadam._types import ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, for NumPy arrays, in place.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        The arrays that `step` changes in place; see `Adam`.
    lr : float or callable, optional
        Learning rate, or a function of the number of finished steps that gives it, such as
        those of `schedules`.
    momentum : float, optional
        How much of the last update is kept in the next one, at least 0; 0 is without
        momentum.
    dampening : float, optional
        The fraction of each gradient that the momentum leaves out, at least 0.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty.
    nesterov : bool, optional
        Look ahead; needs a momentum and no dampening.
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

        buffer = momentum*buffer + (1 - dampening)*g    # at the first step: buffer = g
        g      = buffer                                 # without nesterov
        g      = g + momentum*buffer                    # with nesterov
        p      = p - lr*g

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning",
    ICML 2013, in the form of ``torch.optim.SGD``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.SGD(w, lr=0.1, momentum=0.5, nesterov=True)
    >>> for _ in range(100):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 1e-6)
    True
    """

    _rule = _rules.SGD

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
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
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)
