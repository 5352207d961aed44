"""The norm of all ranks' gradients, and what follows from it: the twin of csrc/norm.c."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from mpi4py import MPI

from fastadam._hyper import FLOAT32_MAX, Clip
from fastadam._quiet import quietly
from fastadam._types import Array
from fastadam.mpi._ranks import Ranks


def norm_of_all(
    ranks: Ranks,
    sum_of_squares: Callable[[float], float],
    own: Sequence[Array],
    loss_scale: float,
) -> float:
    """The L2 norm of the gradients of all ranks, divided by the loss scale.

    Parameters
    ----------
    ranks : Ranks
    sum_of_squares : callable
        Gives that of all ranks' gradients times a factor.
    own : sequence of ndarray
        This rank's gradients.
    loss_scale : float
    """
    squares = sum_of_squares(1.0)
    info = np.finfo(np.float64)
    if squares == math.inf or squares < info.smallest_normal / info.eps:
        wide = [grad for grad in own if grad.dtype == np.float64 and grad.size]
        largest = max((float(np.abs(grad).max()) for grad in wide), default=0.0)
        bound = ranks.comm.allreduce(largest, MPI.MAX)
        if 0 < bound < math.inf:
            exponent = max(math.frexp(bound)[1], -1000)
            root = math.sqrt(sum_of_squares(math.ldexp(1, -exponent)))
            return float(quietly(np.ldexp, root / loss_scale, exponent))
    return float(quietly(np.sqrt, squares)) / loss_scale


def must_skip(
    ranks: Ranks, clip: Clip, own: Sequence[Array], norm: float, loss_scale: float
) -> bool:
    """Whether a step is left out: for a gradient on any rank that is or becomes not finite."""
    if not clip.skip_nonfinite:
        return False
    if not math.isfinite(norm):
        return True
    factor = min(clip.max_grad_norm / (norm + 1e-6), 1.0)
    if not norm * factor > FLOAT32_MAX / 2:
        return False
    narrow = [grad for grad in own if grad.dtype == np.float32]
    by = np.float32(factor / loss_scale)
    overflows = any(not np.isfinite(quietly(np.multiply, grad, by)).all() for grad in narrow)
    return bool(ranks.comm.allreduce(overflows, MPI.LOR))


def fold(ranks: Ranks, own: Array, counts: Sequence[int], order: Array | None = None) -> float:
    """The sum of all ranks' numbers, one after the other: as they come, or in an order."""
    sums = np.empty(sum(counts))
    ranks.comm.Allgatherv(own, (sums, counts))
    if order is not None:
        sums = sums[order]
    return float(quietly(np.cumsum, sums)[-1]) if sums.size else 0.0
