"""The optimizers."""

from __future__ import annotations

from typing import ClassVar

from fastadam import _rules
from fastadam._hyper import Group, Schedule
from fastadam._types import ArrayTree, ParamGroups
from fastadam.optimizer import Optimizer

__all__ = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]


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


class RAdam(Optimizer):
    """Rectified Adam for NumPy arrays, in place.

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
    With m and v as in `Adam`, and ``rho = rho_inf - 2*t*b2**t/(1 - b2**t)`` where
    ``rho_inf = 2/(1 - b2) - 1``::

        p = p*keep - (step_size*m)/(sqrt(v) + eps)   # if rho > 5
        p = p*keep - step_size*m                     # otherwise

    where ``step_size = lr*r*sqrt(1 - b2**t)/(1 - b1**t)`` with the paper's r, or
    ``lr/(1 - b1**t)``.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond",
    arXiv:1908.03265, algorithm 2, in the form of ``torch.optim.RAdam``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.RAdam(w, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 1e-2)
    True
    """

    _rule = _rules.RADAM

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
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
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)


class Adamax(Optimizer):
    """Adam with the infinity norm, for NumPy arrays, in place.

    Parameters
    ----------
    params : ndarray, nesting of dicts, lists and tuples of ndarray, or list of param groups
        The arrays that `step` changes in place; see `Adam`.
    lr : float or callable, optional
        Learning rate, or a function of the number of finished steps that gives it, such as
        those of `schedules`.
    betas : (float, float), optional
        Decay rates of the first moment and of the largest gradient, in [0, 1).
    eps : float, optional
        Added to a gradient's absolute value.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty.
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
    With m as in `Adam`::

        u = maximum(b2*u, abs(g) + eps)
        p = p - (step_size*m)/u

    where ``step_size = lr/(1 - b1**t)``.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980,
    algorithm 2, in the form of ``torch.optim.Adamax``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastadam.Adamax(w, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 1e-2)
    True
    """

    _rule = _rules.ADAMAX

    def __init__(
        self,
        params: ArrayTree | ParamGroups,
        lr: float | Schedule = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
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
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "seed": seed,
        }
        super().__init__(params, options, max_grad_norm, skip_nonfinite, ema_decay)


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
