from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastadam import _rules
from fastadam.torch._optimizer import Base, Optimizer


class Lion(Optimizer, Base):
    """`fastadam.Lion`, steps of one size by the sign of a momentum, for tensors.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate: how far each element moves at a step. A scheduler of torch may change it.
    betas : (float, float), optional
        In [0, 1). The first is the share of the momentum in the direction of a step, beside
        the gradient's; the second is the decay rate of the momentum.
    weight_decay : float, optional
        ``lr * weight_decay`` times the parameter is subtracted from it at each step.
    maximize : bool, optional
        Step along the gradient, not against it.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the momentum is stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state.
    seed : int, optional
        Decides how numbers are rounded that are stored in fewer bits.

    Raises
    ------
    RuntimeError
        A parameter is not on the CPU, or not float32, float64, complex64, complex128, bfloat16 or
        float16.
    TypeError, ValueError
        An option or the parameters do not fit; the message names it.

    Notes
    -----
    Of complex numbers, real and imaginary parts have signs of their own. State dicts load to and
    from the class of the package lion_pytorch.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.Lion([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.LION
    _fixed: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            maximize=maximize,
            state_dtype=state_dtype,
            seed=seed,
            **self._fixed,
        )
