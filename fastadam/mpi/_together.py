"""A step that all ranks make, or none."""

from __future__ import annotations

from typing import Any

from fastadam import _hyper
from fastadam._arrays import Arrays
from fastadam._guard import KEPT
from fastadam._hyper import Group
from fastadam._rows import Rows
from fastadam._types import Array
from fastadam.mpi._ranks import Ranks


class Together:
    """What stands in the place of a backend's Batch, where several ranks step together."""

    ranks: Ranks
    backend: Any
    arrays: Arrays
    lock: Any
    finished: Any  # how many steps were done
    sums: Any = None  # of the gradients that accumulate kept
    retired = False  # whether the optimizer has another one now

    def step(self, grads: Any, groups: list[Group], loss_scale: float) -> bool:
        """One step on all ranks; False if this was retired while it waited for the lock."""
        with self.ranks.hold("step", self.lock):
            if self.retired:
                return False
            error: Exception | None = None
            if self.lock.refusal:  # since this thread waited
                error = RuntimeError(self.lock.refusal)
            elif self.sums is not None:
                error = ValueError(KEPT)
            self.step_held(grads, groups, loss_scale, error)
            return True

    def step_held(
        self,
        grads: Any,
        groups: list[Group],
        loss_scale: float,
        error: Exception | None = None,
    ) -> None:
        """The same for who holds the lock; an error of this rank becomes one of all."""
        plain: list[Any] = []
        settings, now, scale = None, [], 1.0
        try:
            if error is not None:
                raise error
            scale = _hyper.check_loss_scale(loss_scale, self.arrays.traits)
            now = _groups_now(self.arrays, groups, self.finished)
            decays = [group["weight_decay"] for group in now]
            found = self.arrays.plain_gradients(grads, decays, self.backend.sum_rows)
            plain = self.prepared(found)
            settings = scale, [_shown(group) for group in now], self.finished, self.marks(plain)
        except Exception as caught:
            error = caught
        self.ranks.agree("step", error, settings)
        self.step_together(grads, plain, now, scale)

    def prepared(self, found: list[Array | Rows | None]) -> list[Any]:
        """The plain gradients as `step_together` wants them, or an error."""
        return found

    def marks(self, plain: list[Any]) -> Any:
        """What must be the same of all ranks' gradients."""
        return None

    def step_together(
        self, grads: Any, plain: list[Any], groups: list[Group], loss_scale: float
    ) -> None:
        """The step, once all ranks have come to it without an error."""
        raise NotImplementedError


def _groups_now(arrays: Arrays, groups: list[Group], finished: int) -> list[Group]:
    """The groups, checked, with their learning rates after so many steps as numbers."""
    hypers = arrays.check_groups(groups)
    for group in groups:
        _hyper.check_mode(group)
    return [
        {**_hyper.plain(group, traits), "lr": _hyper.lr_now(hyper, finished, traits)}
        for group, hyper, traits in zip(groups, hypers, arrays.traits, strict=True)
    ]


def _shown(group: Group) -> list[tuple[str, Any]]:
    """A group's options, as ranks compare them."""
    return sorted((key, value) for key, value in group.items() if key not in ("params", "name"))
