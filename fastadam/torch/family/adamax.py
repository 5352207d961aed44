from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastadam import _rules
from fastadam.torch._optimizer import Optimizer


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
