from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from fastadam import _rules
from fastadam.torch._optimizer import Base, Optimizer


class ADOPT(Optimizer, Base):
    """`fastadam.ADOPT`, which converges whatever beta2 is, for tensors.

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
        The least that a gradient is divided by.
    weight_decay : float, optional
        This multiple of the parameter is added to the gradient: an L2 penalty. With
        `decoupled_weight_decay`, ``lr * weight_decay`` times the parameter is subtracted from it
        instead.
    clip : float or None, optional
        After k finished steps, a gradient divided by the root of its second moment is kept
        between ``-k**clip`` and ``k**clip``; see `fastadam.ADOPT`. None leaves it as it is.
    decoupled_weight_decay : bool, optional
        Decay as AdamW does.
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
        float16.
    TypeError, ValueError
        An option or the parameters do not fit; the message names it.

    Notes
    -----
    `load_state_dict` takes what the class of the authors gives, and that of the package
    pytorch_optimizer, which counts steps for each group; and both take
    ``state_dict(decoded=True)``. How they clip is no part of a state dict. pytorch_optimizer
    clips the t-th step by ``t**0.25`` where the others have ``t - 1``.

    References
    ----------
    Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate",
    arXiv:2411.02853, algorithm 2, with the clipping that its authors added later.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.ADOPT([w], lr=0.02)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.ADOPT

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        clip: float | None = 0.25,
        decoupled_weight_decay: bool = False,
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
            clip=clip,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            state_dtype=state_dtype,
            seed=seed,
        )
