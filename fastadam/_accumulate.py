"""The gradients that an optimizer was given between two steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastadam import _rows
from fastadam._arrays import Arrays
from fastadam._codecs import computed_in, numbers_of
from fastadam._types import Array


class _Accumulated:
    """Stands for the mean of the gradients given to `accumulate`."""

    def __repr__(self) -> str:
        return "<accumulated>"


ACCUMULATED: Any = _Accumulated()


class Sums(dict[int, "Array | _rows.RowGrad"]):
    """The sums of the arrays' gradients, of those arrays that got one; it never changes.

    Gradients in half precision are summed in float32.
    """

    times = 0  # gradients were given

    def plus(
        self, grads: Iterable[Array | _rows.Rows | None], arrays: Arrays, sum_rows: _rows.SumRows
    ) -> Sums:
        """New sums, with one more gradient of each array."""
        sums = Sums(self)
        sums.times = self.times + 1
        for i, grad in enumerate(grads):
            if grad is not None:
                if not isinstance(grad, _rows.Rows):
                    grad = numbers_of(grad)
                param, total = arrays.slots[i].param, self.get(i)
                sums[i] = _sum(arrays.name(i), total, grad, param, sum_rows)
        return sums

    def means(self, n: int) -> list[Any]:
        """The mean gradients of n arrays; None for an array that got none."""
        means: list[Any] = [None] * n
        for i, total in self.items():
            if isinstance(total, _rows.RowGrad):
                means[i] = _rows.RowGrad(total.rows, total.values / self.times)
            else:
                means[i] = total / self.times
        return means


def _sum(
    label: str,
    total: Array | _rows.RowGrad | None,
    grad: Array | _rows.Rows,
    param: Array,
    sum_rows: _rows.SumRows,
) -> Any:
    """The sum of gradients; a new array."""
    if isinstance(grad, _rows.Rows):
        if grad.elements:
            raise TypeError(f"{label}: accumulate takes no scipy.sparse array; use RowGrad")
        values = grad.values.reshape(len(grad.rows), *param.shape[1:])
        if total is None:
            return _rows.RowGrad(grad.rows, values.copy())
        if isinstance(total, _rows.RowGrad):
            rows = np.concatenate([total.rows, grad.rows])
            both = np.concatenate([total.values, values]).reshape(len(rows), grad.values.shape[1])
            rows, sums = _rows.merged(rows, both, sum_rows)
            return _rows.RowGrad(rows, sums.reshape(len(rows), *param.shape[1:]))
        sums = total.copy()
        sums[grad.rows] += values
        return sums
    if isinstance(total, _rows.RowGrad):
        dense = np.zeros_like(param, computed_in(param))
        np.add.at(dense, total.rows, total.values)
        return dense + grad
    return grad.copy(order="K") if total is None else total + grad
