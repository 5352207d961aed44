from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from fastadam._checks import name_of
from fastadam._guard import NOTHING_KEPT
from fastadam._slots import Slot
from fastadam.mpi._ranks import Ranks
from fastadam.optimizer import Optimizer


class MpiOptimizer(Optimizer):
    """What the optimizers of several ranks share: how they are made, and that all do the same."""

    def __init__(
        self,
        params: Any,
        optimizer_class: type[Optimizer],
        comm: Any,
        settings: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        # Which options there are, Optimizer.__setattr__ wants to know.
        vars(self).update(_rule=optimizer_class._rule, _fixed=optimizer_class._fixed)
        self._ranks = Ranks(comm)
        self._settings, self._name = settings, optimizer_class.__name__
        error = None
        try:
            # One of a single number checks the options, and says what they are by default.
            dtype = np.float64 if options.get("state_dtype") is None else np.float32
            example = optimizer_class(np.zeros(1, dtype), **options)
            clip = options.get("max_grad_norm"), options.get("skip_nonfinite", False)
            super().__init__(params, example.defaults, *clip, example._ema_decay)
        except Exception as caught:
            error = caught
        shown = None if error else [self._name, settings, repr(self._clip), self._forms()]
        self._ranks.agree(type(self).__name__, error, shown)

    def _forms(self) -> list[Any]:
        """What must be the same on all ranks, for steps to be possible."""
        groups = [
            sorted((key, value) for key, value in group.items() if key not in ("params", "lr"))
            for group in self.param_groups
        ]
        arrays = [
            (slot.key, slot.group, name_of(slot.user.dtype), self._form(slot))
            for slot in self._batch.arrays.slots
        ]
        return [groups, arrays]

    def _form(self, slot: Slot) -> Any:
        """What must be the same of an array."""
        raise NotImplementedError

    def _step_mean(self, loss_scale: float) -> None:
        with self._lock.hold():
            batch = self._held_batch()
            if batch.sums is None:  # the others must not wait for this rank
                error = ValueError(NOTHING_KEPT)
                batch.step_held(None, self.param_groups, loss_scale, error)
        super()._step_mean(loss_scale)

    def _class_name(self) -> str:
        return self._name

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Refused: the ranks agree when the optimizer is made.

        Raises
        ------
        TypeError
        """
        raise TypeError("give all param groups to the constructor, where the ranks agree")

    def _put_in_place(self, call: str, prepare: Callable[[], Any], settings: Any = None) -> None:
        """Put in place what `prepare` gives, if no rank has an error."""
        error, prepared = None, None
        try:
            prepared = prepare()
        except Exception as caught:
            error = caught
        self._ranks.agree(call, error, settings)
        assert prepared is not None
        self._replace(*prepared)

    def __getstate__(self) -> NoReturn:
        raise TypeError("a part of the ranks cannot be copied or pickled; use state_dict or save")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__getstate__()
