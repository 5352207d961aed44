"""A step of arrays that lie in parts on all ranks, each of which steps its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam._arrays import Arrays
from fastadam._codecs import numbers_of
from fastadam._hyper import Clip, Group
from fastadam._quiet import quietly
from fastadam._rows import Rows
from fastadam._slots import flat
from fastadam._types import Array
from fastadam.mpi._norm import fold, must_skip, norm_of_all
from fastadam.mpi._ranks import Ranks
from fastadam.mpi._together import Together


class Local(Together):
    """What an optimizer steps; it stands in the place of a backend's Batch, and has one.

    Parameters
    ----------
    ranks : Ranks
    backend : module
    arrays : Arrays
        This rank's, with their state.
    batch : Batch
        The backend's, of these arrays, which does not measure norms.
    clip : Clip
    skipped : int
    grad_norm : float
        Of the last step.
    """

    def __init__(
        self,
        ranks: Ranks,
        backend: Any,
        arrays: Arrays,
        batch: Any,
        lock: Any,
        clip: Clip,
        skipped: int,
        grad_norm: float,
    ) -> None:
        self.ranks, self.backend, self.arrays, self.batch = ranks, backend, arrays, batch
        self.lock, self.clip, self.skipped, self.grad_norm = lock, clip, skipped, grad_norm

    @property
    def steps(self) -> list[int]:
        """The finished steps of each array."""
        steps: list[int] = self.batch.steps
        return steps

    @property
    def numbers(self) -> list[tuple[float, ...]]:
        """The running numbers of each array."""
        numbers: list[tuple[float, ...]] = self.batch.numbers
        return numbers

    @property
    def finished(self) -> int:
        """How many steps were done."""
        finished: int = self.batch.finished
        return finished

    def marks(self, plain: list[Array | Rows | None]) -> list[int]:
        return [i for i, grad in enumerate(plain) if grad is not None]

    def step_together(
        self,
        grads: Any,
        plain: list[Array | Rows | None],
        groups: list[Group],
        loss_scale: float,
    ) -> None:
        norm = None
        if self.clip.measures:
            own = [
                numbers_of(flat(grad.values if isinstance(grad, Rows) else grad))
                for grad in plain
                if grad is not None
            ]
            norm = self.grad_norm = norm_of_all(
                self.ranks, lambda scale: self._sum_of_squares(own, scale), own, loss_scale
            )
            if must_skip(self.ranks, self.clip, own, norm, loss_scale):
                self.skipped += 1
                return
        self.batch.step_held(grads, groups, loss_scale, norm=norm)

    def _sum_of_squares(self, own: Sequence[Array], scale: float) -> float:
        """The sum over all ranks, of blocks of each rank's arrays, in the order of the ranks."""
        sums = [quietly(self.backend.block_sums, grad, scale) for grad in own]
        blocks = np.concatenate(sums) if sums else np.empty(0)
        counts = self.ranks.comm.allgather(len(blocks))
        return fold(self.ranks, blocks, counts)
