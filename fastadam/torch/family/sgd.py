from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastadam import _rules
from fastadam.torch._optimizer import Optimizer


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
