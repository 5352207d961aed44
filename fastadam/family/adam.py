from __future__ import annotations

from typing import ClassVar

from fastadam import _rules
from fastadam._hyper import Group, Schedule
from fastadam._types import ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer


class Adam(Optimizer):
    """The Adam optimizer for NumPy arrays, in place.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        Arrays of any shape, float32, float64, complex64 or complex128 (of
        which real and imaginary parts are separate parameters), float16 or
        ``ml_dtypes.bfloat16``. They are changed in place by `step`. Write other numbers
        into them, as in ``params["w"][...] = numbers``: ``params["w"] = numbers`` puts
        another array into the dict, which the next step refuses. (If an array is replaced
        elsewhere than in the dicts and lists that are passed here, such as in an attribute
        of an object, steps go on with the old one.) A param group is a dict with a ``"params"``
        entry and any of the options below, which then hold for that group.
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
        Leave out a step with a NaN or an infinity in any gradient, as it is or once divided
        by the loss scale (and clipped), or a norm that overflows: it changes nothing and
        counts in `skipped_steps`.
    ema_decay : float, optional
        Keep a moving average of the parameters, in the same pass; see `averaged_params`.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored: as the numbers that a step computes with, or in
        2 or about 1 byte a number in place of 4; see Notes. It is for parameters that are
        stepped in float32, and it cannot be changed once a group is made.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits; from 0 to 2**32 - 1.

    Attributes
    ----------
    param_groups : list of dict
        As in torch.optim. Edit ``"lr"`` and the others between steps; they are
        checked at the next step.

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

    The constructor allocates the state, of which `state_bytes` tells the size: two arrays (three
    for AMSGrad, and one more for `ema_decay`) of each parameter's size. Besides, it allocates a
    copy of a parameter that is a strided or unaligned view, or that has 8-bit state and is not
    in C order.

    A float16 or bfloat16 parameter is stepped as a float32 one, of which the array always has the
    nearest half-precision number (of two that are as near, for bfloat16 the one farther from
    zero, and for float16 the even one). The state has what that lacks: for bfloat16 2 bytes a
    number, ``param_remainder``, and for float16 the float32 itself, ``master_param``. What you
    write into the parameter between steps counts: a float16 number takes the place of the
    float32; a bfloat16 number becomes the float32's upper half, whose lower half stays, so that
    the float32 rounds to what was written. Gradients may have the parameter's dtype, or be
    float32, float16 or bfloat16, also for float32 parameters.

    With ``state_dtype="bfloat16"`` a moment is rounded to one of the two nearest bfloat16
    numbers at random, so that it is right in the mean: rounded to the nearest, a second moment
    would cease to decay. "Random" is a function of `seed`, the number of the step and the
    element's place in memory: the same run always gives the same bits. With ``"int8"``, blocks of
    64 numbers share a scale. A second moment then has five bits of exponent and three of mantissa,
    and is zero only where the exact one is; a first moment is stored in units near the root of
    the second. So an update is off by a few percent, at random, even where the numbers of a
    block differ ten thousand times; if one gradient of a block is a million times as large as the
    others, those get smaller updates until it has left the second moment. Arrays with fewer
    than 4,096 numbers are then stored as they are. Give arrays whose moments must be exact,
    such as embeddings, a param group with ``state_dtype=None``.
    A `RowGrad` for an array with 8-bit state must have rows of a multiple of 64 numbers.

    A copy or a pickle of the optimizer has copies of the parameters, too. Copy or pickle it
    together with the model, as ``pickle.dumps((model, optimizer))`` does: made apart, the
    two have different arrays, and training would not reach the model.

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

    _rule = _rules.ADAM

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
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
        ema_decay: float | None = None,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        options: Group = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
            "epsilon_hat": epsilon_hat,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)


class AdamW(Adam):
    """Adam with decoupled weight decay.

    The same as `Adam` with ``decoupled_weight_decay=True``: the decay does not enter the
    moments.

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
        ``lr * weight_decay`` times the parameter is subtracted from it at each step.
    amsgrad : bool, optional
        Divide by the largest second moment so far.
    maximize : bool, optional
        Step along the gradient, not against it.
    epsilon_hat : bool, optional
        Take `eps` as the paper's epsilon-hat, added before the bias correction of the
        second moment: the form of scikit-learn, Keras and others.
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

    References
    ----------
    Loshchilov & Hutter, "Decoupled Weight Decay Regularization",
    arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, 2.0])
    >>> opt = fastadam.AdamW(w, lr=0.5, weight_decay=0.1)
    >>> opt.step(np.zeros(2))
    >>> w
    array([0.95, 1.9 ])
    """

    _fixed: ClassVar[Group] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
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
        ema_decay: float | None = None,
        state_dtype: str | None = None,
        seed: int = 0,
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
            ema_decay=ema_decay,
            state_dtype=state_dtype,
            seed=seed,
        )
