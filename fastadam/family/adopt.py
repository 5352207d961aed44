from __future__ import annotations

from fastadam import _rules
from fastadam._hyper import Group, Schedule
from fastadam._types import ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer


class ADOPT(Optimizer):
    """Adam that converges whatever beta2 is, for NumPy arrays, in place.

    A gradient is divided by the root of the second moment of those before it, so that the two
    are independent, and the first moment is of what comes out. Adam, which divides the first
    moment by a second one that has the same gradient in it, goes wrong on some problems unless
    beta2 is near enough to 1 for each of them.

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
        The least that a gradient is divided by.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty. With
        `decoupled_weight_decay`, ``lr * weight_decay`` times the parameter is subtracted
        from the parameter instead.
    clip : float or None, optional
        After k finished steps, what comes out of the division is kept between ``-k**clip``
        and ``k**clip``; `clip` is from 0 to 1. None leaves it as it is: an element whose
        gradients were zero at first is then divided by `eps`.
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
    The first step of an array sets ``v = g*g`` and moves nothing. In the later ones::

        ratio = g / maximum(sqrt(v), eps)
        ratio = minimum(maximum(ratio, -limit), limit)    # limit = k**clip
        m     = b1*m + (1 - b1)*ratio
        v     = b2*v + (1 - b2)*(g*g)
        p     = p*keep - lr*m

    with ``keep = 1 - lr*weight_decay`` if decoupled, else 1.

    Rows that a `RowGrad` leaves out stay as they are, and so do their moments. A row that was
    not in the first step has a second moment of zero when its first gradient comes, which is
    then divided by `eps`, and so becomes ``k**clip`` or ``-k**clip``: do not set ``clip=None``
    with such gradients.

    References
    ----------
    Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate",
    arXiv:2411.02853, algorithm 2, with the clipping that its authors added later.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.ADOPT(w, lr=0.02)
    >>> for _ in range(200):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 1e-2)
    True
    """

    _rule = _rules.ADOPT

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        clip: float | None = 0.25,
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
            "clip": clip,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)
