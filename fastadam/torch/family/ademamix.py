from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastadam import _rules
from fastadam.torch._optimizer import Base, Optimizer


class AdEMAMix(Optimizer, Base):
    """`fastadam.AdEMAMix`, AdamW with a second, slow momentum, for tensors.

    Parameters
    ----------
    params : iterable of Tensor, of (name, Tensor), or of dict
        The parameters, as torch takes them: ``model.parameters()``,
        ``model.named_parameters()``, or param groups with options of their own.
    lr : float or Tensor, optional
        Learning rate; a scheduler of torch may change it.
    betas : (float, float, float), optional
        Decay rates of the first and second moment, and of the slow momentum, in [0, 1).
    eps : float, optional
        Added to the denominator.
    weight_decay : float, optional
        ``lr * weight_decay`` times the parameter is subtracted from it at each step.
    alpha : float, optional
        How much the slow momentum counts beside the fast one.
    t_alpha : float or None, optional
        So many steps it takes for `alpha` to grow from 0, linearly; None: it is constant.
    t_beta3 : float or None, optional
        So many steps it takes for the third beta to grow from the first one to its value; None:
        it is constant. See `fastadam.AdEMAMix`.
    maximize : bool, optional
        Step along the gradient, not against it.
    state_dtype : {None, "bfloat16", "int8"}, optional
        How the arrays of state are stored; see `fastadam.Adam`. It is for parameters that are
        stepped in float32, and it cannot be changed once there is state. What is rounded stays in
        a slow momentum for long: in 8 bits it has some noise.
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
    `load_state_dict` takes what the class of the authors gives, and that of the package
    pytorch_optimizer, which counts steps for each group; and both take
    ``state_dict(decoded=True)``, pytorch_optimizer's if `t_alpha` and `t_beta3` are alike. Here
    the decay is always decoupled, and there only with ``weight_decouple=True``: without it, a state
    dict with weight decay is refused.

    References
    ----------
    Pagliardini, Ablin & Grangier, "The AdEMAMix Optimizer: Better, Faster, Older",
    arXiv:2409.03137, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.AdEMAMix([w], lr=0.01, betas=(0.9, 0.999, 0.99))
    >>> for _ in range(500):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.ADEMAMIX
    _fixed: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        alpha: float = 5.0,
        t_alpha: float | None = None,
        t_beta3: float | None = None,
        *,
        maximize: bool = False,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            alpha=alpha,
            t_alpha=t_alpha,
            t_beta3=t_beta3,
            maximize=maximize,
            state_dtype=state_dtype,
            seed=seed,
            **self._fixed,
        )
