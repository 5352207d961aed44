from collections.abc import Callable, Sequence
from typing import Any, final

from fastadam._hyper import Group
from fastadam._native import Batch
from fastadam._rows import RowGrad
from fastadam._types import Array

@final
class Tensors:
    is_shared: bool
    def __new__(
        cls,
        batch: Batch,
        exchange: object,
        params: list[Any],
        locals: list[Any],
        rows: list[tuple[list[Any], list[Any]] | None],
        state: dict[Any, Any],
        aliases: list[Any],
        wholes: list[tuple[int, Any]],
        increment_versions: Callable[[list[Any]], None],
        read_group: Callable[[Group, Sequence[str]], Group],
        read_grad: Callable[[str, Any], tuple[Array | RowGrad, Array]],
        local_grad: Callable[[str, Any, Any], Any],
        is_aliased: Callable[[Any], bool],
    ) -> Tensors: ...
    def step(self, groups: list[Group], most_threads: int) -> bool: ...
