from collections.abc import Callable, Sequence
from typing import Any

from fastadam._hyper import Group
from fastadam._native import Batch
from fastadam._rows import RowGrad
from fastadam._types import Array

class Tensors:
    is_shared: bool
    def __init__(
        self,
        batch: Batch,
        exchange: object,
        params: list[Any],
        rows: list[tuple[list[Any], list[Any]] | None],
        state: dict[Any, Any],
        aliases: list[Any],
        increment_versions: Callable[[list[Any]], None],
        read_group: Callable[[Group, Sequence[str]], Group],
        read_grad: Callable[[str, Any], tuple[Array | RowGrad, Array]],
        is_aliased: Callable[[Any], bool],
    ) -> None: ...
    def step(self, groups: list[Group], most_threads: int) -> bool: ...
