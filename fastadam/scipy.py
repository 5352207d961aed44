"""Adam as a method of ``scipy.optimize.minimize``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from fastadam._hyper import Schedule, real
from fastadam.family import Adam

try:
    from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning
except ImportError as error:
    raise ImportError("fastadam.scipy needs SciPy: pip install scipy") from error

__all__ = ["adam"]

MESSAGES = {
    0: "No component of the projected gradient is larger than the tolerance.",
    1: "Maximum number of iterations has been reached; a larger maxiter or lr goes further.",
    2: "The function or its gradient became NaN or infinite.",
    99: "`callback` raised `StopIteration`.",
}


def adam(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Callable[..., Any] | None = None,
    *,
    tol: float | None = None,
    gtol: float = 1e-5,
    maxiter: float | None = None,
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
        ``fun(x, *args)``, a number; in `minimize` with ``jac=True``, a pair of it and the
        gradient.
    x0 : array_like
        Where to begin, real numbers; it is copied. float32 stays float32.
    args : tuple, optional
        More arguments for `fun` and `jac`.
    jac : callable
        ``jac(x, *args)``, the gradient, of the size of `x0`; in `minimize`, also True. There
        are no finite differences.
    hess, hessp
        Ignored.
    bounds : Bounds or sequence of (min, max), optional
        After each step x is brought back between them.
    constraints : sequence, optional
        Must be empty.
    callback : callable, optional
        Called after each iteration, as SciPy's methods do: with an OptimizeResult if its
        only parameter is called ``intermediate_result``, else with a copy of x. It may raise
        StopIteration to end.
    tol, gtol : float, optional
        End where no component of the projected gradient is larger; `tol` takes the place
        of `gtol`.
    maxiter : float, optional
        The largest number of steps, 1000 if not given.
    lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay, epsilon_hat, max_grad_norm
        As in `fastadam.Adam`; lr may be a function of the number of finished steps.
    disp : bool, optional
        Print the message at the end.
    **unknown
        Other options give an OptimizeWarning, as with SciPy's methods.

    Returns
    -------
    scipy.optimize.OptimizeResult
        ``x`` is the point with the lowest value that was seen, ``fun`` and ``jac`` belong to it;
        ``nit``, ``nfev``, ``njev``, ``success``, ``status`` (0: tolerance reached, at this or a
        later point; 1: maxiter, 2: not finite, 99: stopped by the callback), ``message``.

    Raises
    ------
    TypeError, ValueError
        There is no gradient, there are constraints, `x0` is complex, the bounds or an option do
        not fit, or `fun` or `jac` returned anything but as many real numbers as expected.

    Notes
    -----
    A step moves no component by much more than lr, so where the start is far from the minimum,
    lr and maxiter must be large enough for the way.

    If `fun` is noisy, its lowest value is mostly luck: better take the last x that the callback
    got.

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
        raise ValueError(
            "adam needs a gradient: jac=True, or a function, such as "
            "lambda x: scipy.optimize.approx_fprime(x, fun) for finite differences"
        )
    if len(constraints) if hasattr(constraints, "__len__") else constraints:
        raise ValueError("adam takes no constraints, only bounds")
    gtol = real("gtol", gtol) if tol is None else real("tol", tol)
    maxiter = 1000.0 if maxiter is None else real("maxiter", maxiter)
    if not maxiter >= 0:
        raise ValueError(f"maxiter must be at least 0, found {maxiter}")
    if unknown:
        names = ", ".join(unknown)
        warnings.warn(f"Unknown solver options: {names}", OptimizeWarning, stacklevel=3)
    x = np.array(x0)
    if x.dtype.kind == "c":
        raise ValueError(
            f"x0 has the dtype {x.dtype}, expected real numbers; "
            "give real and imaginary parts as one real array"
        )
    x = x.astype(np.float32 if x.dtype.type is np.float32 else np.float64)
    low, high = _bounds(bounds, x)
    np.clip(x, low, high, out=x)
    optimizer = Adam(
        x, lr, betas, eps, weight_decay, amsgrad=amsgrad, epsilon_hat=epsilon_hat,
        decoupled_weight_decay=decoupled_weight_decay, max_grad_norm=max_grad_norm,
    )  # fmt: skip
    call = None if callback is None else _caller(callback)
    best = OptimizeResult()
    nit = evaluations = 0
    while True:
        value = _numbers("fun", fun(x.copy(), *args), 1).astype(np.float64).item()
        gradient = _numbers("jac", jac(x.copy(), *args), x.size).astype(x.dtype).reshape(x.shape)
        evaluations += 1
        is_finite = np.isfinite(value) and np.isfinite(gradient).all()
        if evaluations == 1 or (is_finite and value < best.fun):
            best.update(x=x.copy(), fun=value, jac=gradient)
        if not is_finite:
            status = 2
            break
        if nit and call is not None and not call(x, value):
            status = 99
            break
        # What bounds leave of it; x - clip(x - gradient) would lose it where x is large.
        projected = np.where(
            gradient < 0, np.maximum(x - high, gradient), np.minimum(x - low, gradient)
        )
        if np.abs(projected).max(initial=0.0) <= gtol:
            status = 0
            break
        if nit >= maxiter:
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


def _numbers(name: str, value: Any, size: int) -> Any:
    """What a function returned, as a new array of so many real numbers."""
    if value is None:
        raise ValueError(f"{name} returned None; is a `return` missing?")
    found = f"{name} returned a value of type {type(value).__name__}"
    try:
        array = np.array(value)
        if array.dtype == object and all(isinstance(number, Real) for number in array.flat):
            array = array.astype(np.float64)  # integers of more than 64 bits, fractions
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{found} that is no array of real numbers: {error}") from error
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise ValueError(f"{found}, dtype {array.dtype}, expected real numbers")
    if array.size != size:
        raise ValueError(
            f"{name} returned an array of shape {array.shape}, expected {size} numbers"
        )
    return array


def _bounds(bounds: Any, x: Any) -> tuple[Any, Any]:
    """The lowest and highest values, infinite where there is no bound."""
    if bounds is None:
        return -np.inf, np.inf
    try:
        if isinstance(bounds, Bounds):
            low, high = bounds.lb, bounds.ub
        else:
            low, high = zip(*bounds, strict=True)
            low = [-np.inf if number is None else number for number in low]
            high = [np.inf if number is None else number for number in high]
            low, high = (np.reshape(np.array(b, np.float64), x.shape) for b in (low, high))
        with np.errstate(over="ignore"):  # to infinity, in float32
            low, high = (
                np.broadcast_to(np.asarray(b).astype(x.dtype), x.shape) for b in (low, high)
            )
    except (TypeError, ValueError):
        raise ValueError(
            f"bounds: expected Bounds or {x.size} pairs (min, max), found {bounds!r}"
        ) from None
    if np.isnan(low).any() or np.isnan(high).any():
        raise ValueError("bounds: a bound is NaN")
    if (low > high).any():
        raise ValueError("bounds: a lower bound is greater than its upper bound")
    return low, high


def _caller(callback: Callable[..., Any]) -> Callable[[Any, float], bool]:
    """A function that calls it as SciPy does, and says whether to go on."""
    try:
        takes_result = set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except ValueError:  # some builtins have no signature
        takes_result = False

    def call(x: Any, value: float) -> bool:
        try:
            if takes_result:
                callback(intermediate_result=OptimizeResult(x=x.copy(), fun=value))
            else:
                callback(x.copy())
        except StopIteration:
            return False
        return True

    return call
