from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastadam import _rules
from fastadam.torch._optimizer import Optimizer
from fastadam.torch._options import STORAGE

#: What torch's classes of these names lack.
EPSILON_HAT: dict[str, Any] = {"epsilon_hat": False, **STORAGE}


class Adam(Optimizer, torch.optim.Adam):
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

    _rule = _rules.ADAM
    _lacking: ClassVar[dict[str, Any]] = EPSILON_HAT

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


class AdamW(Optimizer, torch.optim.AdamW):
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

    _rule = _rules.ADAM
    _lacking: ClassVar[dict[str, Any]] = EPSILON_HAT

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
