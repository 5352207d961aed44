"""Adam without an optimizer object: a step on arrays that the caller keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam import _backend, _hyper
from fastadam._arrays import Arrays, Counts, Written
from fastadam._checks import check_moment, check_rest, check_separate, check_written
from fastadam._rules import ADAM
from fastadam._slots import slot, view_of
from fastadam._types import Array, Grad

REST = "param_rest"


def adam_step(
    param: Array | Sequence[Array],
    grad: Grad | Sequence[Grad],
    exp_avg: Array | Sequence[Array],
    exp_avg_sq: Array | Sequence[Array],
    *,
    step: int | Sequence[int],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    max_exp_avg_sq: Array | Sequence[Array] | None = None,
    maximize: bool = False,
    epsilon_hat: bool = False,
    loss_scale: float = 1.0,
    param_rest: Array | Sequence[Array | None] | None = None,
    seed: int = 0,
) -> None:
    """Do one Adam step in place on one array or on several.

    Parameters
    ----------
    param : ndarray or sequence of ndarray
        Parameters of any shape, float32, float64, complex64, complex128, float16 or bfloat16.
        Changed in place.
    grad : ndarray or RowGrad, or a sequence of them
        Gradients, of the parameters' shapes and dtypes. None in a sequence skips its array. As
        in `Adam.step`, arrays of scipy.sparse and of other libraries will do, and gradients of
        another dtype for parameters that are stepped in float32.
    exp_avg, exp_avg_sq : ndarray or sequence of ndarray
        First and second moments, of the parameters' shapes and dtypes (float32 for float16 and
        bfloat16 parameters); zeros before the first step. Changed in place. The moments of a
        real parameter that is stepped in float32 may also be bfloat16; they are then rounded as
        `Adam` does it with ``state_dtype="bfloat16"``.
    step : int or sequence of int
        The number of this step, 1 for the first; one for all arrays or one for each.
    lr : float, optional
        Learning rate; a number.
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
    max_exp_avg_sq : ndarray or sequence of ndarray, optional
        The largest second moments so far, changed in place. With them the step is AMSGrad's.
    maximize : bool, optional
        Step along the gradient, not against it.
    epsilon_hat : bool, optional
        Take `eps` as the paper's epsilon-hat, added before the bias correction of the
        second moment: the form of scikit-learn, Keras and others.
    loss_scale : float, optional
        Gradients are divided by it.
    param_rest : ndarray or sequence of ndarray or None, optional
        What parameters in half precision lack of a float32, changed in place. For bfloat16 it is
        an int16 array of zeros before the first step, for float16 a float32 array with the
        parameter's values. Other parameters have None.
    seed : int, optional
        Decides how bfloat16 moments are rounded; see `Adam`.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it. Nothing was changed.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> x, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    >>> fastadam.adam_step(x, 2 * x, m, v, step=1, lr=0.5)
    >>> x.round(6)
    array([ 0.5, -1.5])
    """
    amsgrad = max_exp_avg_sq is not None
    options = (lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay, epsilon_hat)
    native = _backend.native()
    if native and param_rest is None:
        columns = (param, exp_avg, exp_avg_sq) + ((max_exp_avg_sq,) if amsgrad else ())
        if native.adam_step(columns, grad, step, options, loss_scale):
            return
    written: dict[str, Any] = {"param": param, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    if amsgrad:
        written["max_exp_avg_sq"] = max_exp_avg_sq
    if param_rest is not None:
        written[REST] = param_rest
    _step_checked(written, grad, step, (*options, None, seed), loss_scale)


def _step_checked(
    written: dict[str, Any], grad: Any, step: Any, options: tuple[Any, ...], loss_scale: float
) -> None:
    """Step arrays of any kind, or say what is wrong with them."""
    several = isinstance(written["param"], list | tuple)
    if several:
        # Tuples of its own: other threads may change the lists.
        params = tuple(written["param"])
        for name, value in written.items():
            written[name] = tuple(value) if isinstance(value, list | tuple) else ()
            if len(written[name]) != len(params):
                raise ValueError(f"{name}: expected a list or tuple of {len(params)} arrays")
        grad = tuple(grad) if isinstance(grad, list | tuple) else grad
    else:
        params = (written["param"],)
        written = {name: (value,) for name, value in written.items()}
    finished = _finished(step, len(params))
    group = dict(zip(ADAM.options, options, strict=True))
    if callable(lr := options[0]):
        raise TypeError("lr must be a real number; for a schedule give lr=schedule(step - 1)")
    group["lr"] = _hyper.real("lr", lr)
    suffixes = [f"[{i}]" for i in range(len(params))] if several else [""]
    rests = written.pop(REST, (None,) * len(params))
    labelled = []
    for name, column in written.items():
        for suffix, array, like in zip(suffixes, column, params, strict=True):
            if name == "param":
                check_written(name + suffix, array)
            else:
                check_moment(name + suffix, array, like)
            labelled.append(Written(name + suffix, array, view_of(array)))
    for suffix, array, like in zip(suffixes, rests, params, strict=True):
        if check_rest(REST + suffix, array, like):
            labelled.append(Written(REST + suffix, array, view_of(array)))
    check_separate([(label, view) for label, _, view in labelled])
    views = {array.label: array.view for array in labelled}
    slots = [
        slot(
            ADAM,
            [views[name + suffix] for name in written],
            0,
            suffix,
            rest=views.get(REST + suffix),
        )
        for suffix in suffixes
    ]
    arrays = Arrays(
        rule=ADAM,
        spec=list(range(len(slots))) if several else 0,
        names=("param", "grad"),
        slots=slots,
        written=labelled,
        in_groups=False,
    )
    backend = _backend.module()
    counts = Counts(finished, [()] * len(slots))
    batch = backend.Batch(arrays, counts, backend.Lock(), _hyper.Clip(math.inf, False, False))
    batch.step(grad, [group], loss_scale)


def _finished(step: Any, n: int) -> list[int]:
    steps = list(step) if isinstance(step, list | tuple) else [step] * n
    if len(steps) != n:
        raise ValueError(f"step: expected one number or {n}, found {len(steps)}")
    for value in steps:
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"step must be an integer, found {type(value).__name__}")
        if not 1 <= value < 2**62:
            raise ValueError(f"Invalid step: {value}; the first step is 1")
    return [int(value) - 1 for value in steps]
