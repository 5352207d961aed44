"""Adam as a method of ``scipy.optimize.minimize``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam._hyper import Schedule
from fastadam.family import Adam

try:
    from scipy.optimize import Bounds, OptimizeResult
except ImportError as error:
    raise ImportError("fastadam.scipy needs SciPy: pip install scipy") from error

__all__ = ["adam"]

MESSAGES = {
    0: "The gradient's largest component is below the tolerance.",
    1: "Maximum number of iterations has been reached.",
    2: "The function or its gradient became NaN or infinite.",
    99: "`callback` raised `StopIteration`.",
}


def adam(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    jac: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Callable[..., Any] | None = None,
    *,
    tol: float | None = None,
    gtol: float = 1e-5,
    maxiter: int = 1000,
    lr: float | Schedule = 1e-2,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
    epsilon_hat: bool = False,
    max_grad_norm: float | None = None,
    disp: bool = False,
    **unknown: Any,
) -> OptimizeResult:
    """Minimize a function with Adam: ``minimize(fun, x0, jac=True, method=adam, options={...})``.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``, a number; with ``jac=True``, a pair of it and the gradient.
    x0 : array_like
        Where to begin; it is copied. float32 stays float32.
    args : tuple, optional
    jac : callable or True
        The gradient, of the shape of `x0`; Adam needs one.
    bounds : Bounds or sequence of (min, max), optional
        After each step x is brought back between them.
    callback : callable, optional
        Called after each iteration, as SciPy's methods do: with an OptimizeResult if its
        only parameter is called ``intermediate_result``, else with a copy of x. It may raise
        StopIteration to end.
    tol, gtol : float, optional
        End where no component of the projected gradient is larger; `tol` takes the place
        of `gtol`.
    maxiter : int, optional
        Most steps.
    lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay, epsilon_hat, max_grad_norm
        As in `fastadam.Adam`; lr may be a function of the number of finished steps.
    disp : bool, optional
        Print the message at the end.

    Returns
    -------
    scipy.optimize.OptimizeResult
        ``x`` is the best point that was seen, ``fun`` and ``jac`` belong to it; ``nit``, ``nfev``,
        ``njev``, ``success``, ``status`` (0: tolerance reached, 1: maxiter, 2: not finite, 99:
        stopped by the callback), ``message``.

    Raises
    ------
    ValueError
        There is no gradient, there are constraints, or bounds or an option do not fit.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 1;
    the stopping rule is that of SciPy's L-BFGS-B.

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> import fastadam.scipy
    >>> result = minimize(rosen, [-1.0, 2.0], jac=rosen_der, method=fastadam.scipy.adam,
    ...                   options={"lr": 0.05, "maxiter": 5000})
    >>> result.x.round(3), result.success
    (array([1., 1.]), True)
    """
    if not callable(jac):
        raise ValueError("adam needs a gradient: jac=True, or a function")
    if len(constraints) if hasattr(constraints, "__len__") else constraints:
        raise ValueError("adam takes no constraints, only bounds")
    if tol is not None:
        gtol = tol
    if maxiter < 0:
        raise ValueError(f"maxiter must be at least 0, found {maxiter}")
    x = np.array(x0)
    if x.dtype != np.float32:
        x = x.astype(np.float64)
    low, high = _bounds(bounds, x)
    np.clip(x, low, high, out=x)
    optimizer = Adam(
        x, lr, betas, eps, weight_decay, amsgrad=amsgrad, epsilon_hat=epsilon_hat,
        decoupled_weight_decay=decoupled_weight_decay, max_grad_norm=max_grad_norm,
    )  # fmt: skip
    best = OptimizeResult(x=x.copy(), fun=np.inf, jac=np.zeros_like(x))
    nit = evaluations = 0
    while True:
        value = float(fun(x.copy(), *args))
        gradient = np.asarray(jac(x.copy(), *args), x.dtype).reshape(x.shape)
        evaluations += 1
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            status = 2
            break
        if value < best.fun or evaluations == 1:
            best.update(x=x.copy(), fun=value, jac=gradient.copy())
        if nit and callback is not None and not _call(callback, x, value):
            status = 99
            break
        if np.abs(x - np.clip(x - gradient, low, high)).max(initial=0.0) <= gtol:
            status = 0
            break
        if nit == maxiter:
            status = 1
            break
        optimizer.step(gradient)
        np.clip(x, low, high, out=x)
        nit += 1
    if disp:
        print(MESSAGES[status])
    best.update(
        nit=nit, nfev=evaluations, njev=evaluations, status=status, success=status == 0,
        message=MESSAGES[status],
    )  # fmt: skip
    return best


def _bounds(bounds: Any, x: Any) -> tuple[Any, Any]:
    """The lowest and highest values, infinite where there is no bound."""
    if bounds is None:
        return -np.inf, np.inf
    if isinstance(bounds, Bounds):
        low, high = bounds.lb, bounds.ub
    else:
        pairs = list(bounds)
        if len(pairs) != x.size or any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"bounds: expected {x.size} pairs (min, max), found {bounds!r}")
        low = [-np.inf if pair[0] is None else pair[0] for pair in pairs]
        high = [np.inf if pair[1] is None else pair[1] for pair in pairs]
    low, high = (np.broadcast_to(np.asarray(b, x.dtype), x.shape) for b in (low, high))
    if not (low <= high).all():
        raise ValueError("bounds: a lower bound is greater than its upper bound")
    return low, high


def _call(callback: Callable[..., Any], x: Any, value: float) -> bool:
    """Call it as SciPy does; whether to go on."""
    try:
        names = set(inspect.signature(callback).parameters)
    except ValueError:  # some builtins have none
        names = set()
    try:
        if names == {"intermediate_result"}:
            callback(intermediate_result=OptimizeResult(x=x.copy(), fun=value))
        else:
            callback(x.copy())
    except StopIteration:
        return False
    return True
