"""PyTorch's optimizers for tensors on the CPU, stepped by fastadam.

`Adam`, `AdamW`, `NAdam`, `RAdam`, `Adamax`, `RMSprop` and `SGD` are subclasses of those of
``torch.optim``: constructors, param groups, hooks, schedulers, ``GradScaler("cpu")`` and state
dicts, which load both ways, are torch's. A step is one call of C, in place.

What differs from torch's own:

- Steps follow fastadam's rule, exact to the bit whatever the layout, threads or instruction set.
- The step count in a state is a float64 tensor, which does not stop at 2**24.
- The sparse gradient of an embedding changes only the rows that it has, as
  ``torch.optim.SparseAdam`` does, and their state; those of other rows do not decay.
- Gradients and parameters may have any strides, and they need not be alike. Parameters that
  share memory raise an error.
- ``foreach`` and ``fused`` choose nothing here; ``capturable`` and ``differentiable`` raise an
  error.
- Parameters must be on the CPU, and float32, float64, complex64, complex128, bfloat16 or float16.
  Others raise an error when the optimizer is made and when a group is added, unless they require
  no gradient: a step leaves out what has none.
- Parameters in half precision are stepped in float32, and are what that gives, rounded. The state
  of a bfloat16 one has the 16 bits that it lacks, as ``"param_remainder"``, and that of a float16
  one has the float32 numbers, as ``"master_param"``. What is written into a parameter between
  steps counts. Gradients are of the parameter's dtype, or of another one of float32, bfloat16 and
  float16 (torch lets a gradient have that where ``Parameter.grad_dtype`` is set so).
- With `state_dtype` the moments take fewer bytes. What the state has then, and how others get
  plain numbers, ``state_dict(decoded=True)``, is said at `Adam.state_dict`.
- `load_state_dict` keeps the counts and what half precision lacks as they were saved, and stores
  moments as the optimizer's own `state_dtype` says. torch's casts all to the parameter's dtype.
- What a step calls, such as the methods of a gradient of another class than ``torch.Tensor``,
  must not step the optimizer or load state into it: that raises an error.

Some things that `fastadam.Adam` has are lacking here. In their place torch has:

================================ ============================================================
`fastadam.Adam`                  here
================================ ============================================================
`max_grad_norm`                  ``torch.nn.utils.clip_grad_norm_``, before the step
`skip_nonfinite`, `loss_scale`   ``torch.amp.GradScaler("cpu")``
`ema_decay`                      ``torch.optim.swa_utils.AveragedModel``, with a
                                 ``multi_avg_fn`` from ``get_ema_multi_avg_fn``
a function as `lr`               ``torch.optim.lr_scheduler``
`accumulate`                     several ``backward()`` before a step
================================ ============================================================

`fastadam.Adam` and its family load the state dicts of these classes and of torch's. In the other
direction, torch asks for tensors, so the arrays in the state dict must be made tensors first::

    for entry in state_dict["state"].values():
        for name, value in entry.items():
            if isinstance(value, np.ndarray):
                entry[name] = torch.from_numpy(value)

If moments are stored in fewer bits, these classes take them as they are; for torch's own, let
``state_dict(decoded=True)`` give plain numbers.

A step uses at most ``torch.get_num_threads()`` and `fastadam.get_num_threads` threads.
"""

from fastadam import _rules

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError("fastadam.torch needs PyTorch: pip install torch") from error
try:
    from torch.optim.optimizer import ParamsT

    from fastadam.torch._optimizer import Optimizer, WithEpsilonHat
except (ImportError, AttributeError) as error:  # some of what it uses is private to torch
    raise ImportError(f"fastadam.torch cannot use PyTorch {torch.__version__}: {error}") from error

__all__ = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]


class Adam(WithEpsilonHat, torch.optim.Adam):
    """``torch.optim.Adam``, stepped by fastadam.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate; a scheduler of torch may change it.
    betas : (float, float), optional
        Decay rates of the first and second moment, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty. With
        `decoupled_weight_decay`, ``lr * weight_decay`` times the parameter is subtracted from it
        instead.
    amsgrad : bool, optional
        Divide by the largest second moment so far.
    foreach, fused : bool, optional
        Taken as torch's classes take them; they change nothing here.
    maximize : bool, optional
        Step along the gradient, not against it.
    capturable, differentiable : bool, optional
        Must be False.
    decoupled_weight_decay : bool, optional
        Decay as AdamW does.
    epsilon_hat : bool, optional
        Take `eps` as the paper's epsilon-hat, added before the bias correction of the second
        moment, as Keras and scikit-learn do. (torch's own class has no such option.)
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16; or `capturable` or `differentiable` is set.
    TypeError, ValueError
        torch's class refuses an option or the parameters, or `lr` is a function.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = fastadam.torch.Adam(model.parameters(), lr=0.01)
    >>> model(torch.ones(2, 3)).square().mean().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        epsilon_hat: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
            epsilon_hat=epsilon_hat,
            state_dtype=state_dtype,
            seed=seed,
        )


class AdamW(WithEpsilonHat, torch.optim.AdamW):
    """``torch.optim.AdamW``, stepped by fastadam.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate; a scheduler of torch may change it.
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
    foreach, fused : bool, optional
        Taken as torch's classes take them; they change nothing here.
    capturable, differentiable : bool, optional
        Must be False.
    epsilon_hat : bool, optional
        Take `eps` as the paper's epsilon-hat, added before the bias correction of the second
        moment, as Keras and scikit-learn do. (torch's own class has no such option.)
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16; or `capturable` or `differentiable` is set.
    TypeError, ValueError
        torch's class refuses an option or the parameters, or `lr` is a function.

    References
    ----------
    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = fastadam.torch.AdamW([w], lr=0.5, weight_decay=0.1)
    >>> w.grad = torch.zeros(2)
    >>> optimizer.step()
    >>> w.data
    tensor([0.9500, 1.9000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        epsilon_hat: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            epsilon_hat=epsilon_hat,
            state_dtype=state_dtype,
            seed=seed,
        )


class NAdam(Optimizer, torch.optim.NAdam):
    """``torch.optim.NAdam``, stepped by fastadam.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate; a scheduler of torch may change it.
    betas : (float, float), optional
        Decay rates of the first and second moment, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty. With
        `decoupled_weight_decay`, ``lr * weight_decay`` times the parameter is subtracted from it
        instead.
    momentum_decay : float, optional
        How fast the momentum comes near to ``beta1``; see `fastadam.NAdam`.
    decoupled_weight_decay : bool, optional
        Decay as AdamW does.
    foreach : bool, optional
        Taken as torch's classes take it; it changes nothing here.
    maximize : bool, optional
        Step along the gradient, not against it.
    capturable, differentiable : bool, optional
        Must be False.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16; or `capturable` or `differentiable` is set.
    TypeError, ValueError
        torch's class refuses an option or the parameters, or `lr` is a function.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.NAdam([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.NADAM

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            state_dtype=state_dtype,
            seed=seed,
        )


class RAdam(Optimizer, torch.optim.RAdam):
    """``torch.optim.RAdam``, stepped by fastadam.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate; a scheduler of torch may change it.
    betas : (float, float), optional
        Decay rates of the first and second moment, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty. With
        `decoupled_weight_decay`, ``lr * weight_decay`` times the parameter is subtracted from it
        instead.
    decoupled_weight_decay : bool, optional
        Decay as AdamW does.
    foreach : bool, optional
        Taken as torch's classes take it; it changes nothing here.
    maximize : bool, optional
        Step along the gradient, not against it.
    capturable, differentiable : bool, optional
        Must be False.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16; or `capturable` or `differentiable` is set.
    TypeError, ValueError
        torch's class refuses an option or the parameters, or `lr` is a function.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.RAdam([w], lr=0.1)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.RADAM

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            state_dtype=state_dtype,
            seed=seed,
        )


class Adamax(Optimizer, torch.optim.Adamax):
    """``torch.optim.Adamax``, stepped by fastadam.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate; a scheduler of torch may change it.
    betas : (float, float), optional
        Decay rates of the first and second moment, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty.
    foreach : bool, optional
        Taken as torch's classes take it; it changes nothing here.
    maximize : bool, optional
        Step along the gradient, not against it.
    capturable, differentiable : bool, optional
        Must be False.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16; or `capturable` or `differentiable` is set.
    TypeError, ValueError
        torch's class refuses an option or the parameters, or `lr` is a function.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 2.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.Adamax([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.ADAMAX

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
            state_dtype=state_dtype,
            seed=seed,
        )


class RMSprop(Optimizer, torch.optim.RMSprop):
    """``torch.optim.RMSprop``, stepped by fastadam.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate; a scheduler of torch may change it.
    alpha : float, optional
        Decay rate of the averages.
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty.
    momentum : float, optional
        How much of the last update is kept in the next one; 0 is without momentum.
    centered : bool, optional
        Divide by an estimate of the gradient's standard deviation.
    capturable, differentiable : bool, optional
        Must be False.
    foreach : bool, optional
        Taken as torch's classes take it; it changes nothing here.
    maximize : bool, optional
        Step along the gradient, not against it.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16; or `capturable` or `differentiable` is set.
    TypeError, ValueError
        torch's class refuses an option or the parameters, or `lr` is a function.

    Centered, it takes ``maximum(square_avg - grad_avg**2, 0)``, where torch's own gives NaN when
    rounding brings the difference below zero.

    References
    ----------
    Tieleman & Hinton, "Neural Networks for Machine Learning", lecture 6.5, 2012.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.RMSprop([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.RMSPROP

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            state_dtype=state_dtype,
            seed=seed,
        )


class SGD(Optimizer, torch.optim.SGD):
    """``torch.optim.SGD``, stepped by fastadam.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate; a scheduler of torch may change it.
    momentum : float, optional
        How much of the last update is kept in the next one; 0 is without momentum.
    dampening : float, optional
        The fraction of each gradient that the momentum leaves out.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty.
    nesterov : bool, optional
        Look ahead; needs a momentum and no dampening.
    maximize : bool, optional
        Step along the gradient, not against it.
    foreach, fused : bool, optional
        Taken as torch's classes take them; they change nothing here.
    differentiable : bool, optional
        Must be False.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16; or `differentiable` is set.
    TypeError, ValueError
        torch's class refuses an option or the parameters, or `lr` is a function.

    With a momentum, the sparse gradient of an embedding leaves the buffers of other rows as
    they are, where torch's own moves those rows, too.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.SGD([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.SGD

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
            state_dtype=state_dtype,
            seed=seed,
        )
