"""Gradients of a few rows of an array."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastadam._types import Array

#: sum_rows(values, order, starts): row j of the result is the sum of the rows
#: order[starts[j]:starts[j + 1]] of `values`, one after the other. Both backends have one.
SumRows: TypeAlias = Callable[[Array, Array, Array], Array]


class RowGrad:
    """The gradient of some rows of an array, in place of a dense gradient.

    A step then changes those rows and their state alone, and costs as much as they are
    (unless the parameter is a strided view, which is copied whole). This is lazy Adam: the
    bias correction goes by the array's step count, and the moments of the other rows do
    not decay.

    Parameters
    ----------
    rows : array_like of int, shape (n,)
        Indices along the parameter's first axis, of any integer dtype and in any
        order. The values of a row that is there several times are added, in order.
    values : ndarray, shape (n, *param.shape[1:])
        Gradients of those rows, of the parameter's dtype.

    Raises
    ------
    TypeError, ValueError
        Here if `rows` are no integers or `values` has not as many rows; in a step if
        a row is not in the parameter, or shape or dtype of `values` are not the
        parameter's, the parameter is not in C order, or a weight decay or an average of the
        parameters would touch the other rows. Nothing is changed then.

    See Also
    --------
    A two-dimensional ``scipy.sparse`` array or matrix may stand in place of a gradient, too:
    only the elements that it stores, and their state, change.

    References
    ----------
    ``torch.optim.SparseAdam``, but with the epsilon of the paper, arXiv:1412.6980,
    unless the optimizer says ``epsilon_hat``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastadam
    >>> table = np.zeros((1000, 2))
    >>> opt = fastadam.Adam(table, lr=0.5)
    >>> opt.step(fastadam.RowGrad([7, 3, 7], np.array([[1.0, 1.0], [2.0, -2.0], [1.0, 1.0]])))
    >>> table[[3, 7]].round(6)
    array([[-0.5,  0.5],
           [-0.5, -0.5]])
    """

    __slots__ = ("_rows", "_values")

    def __init__(self, rows: Any, values: Any) -> None:
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
            raise TypeError(
                f"rows: expected one axis of integers, found shape {rows.shape} and dtype "
                f"{rows.dtype}"
            )
        rows = rows.view(np.ndarray)
        if not isinstance(values, np.ndarray) or isinstance(values, np.ma.MaskedArray):
            raise TypeError(f"values is a {type(values).__name__}; expected a numpy.ndarray")
        if values.ndim == 0 or len(values) != len(rows):
            raise ValueError(f"values: shape {values.shape}, expected {len(rows)} rows as in rows")
        self._rows: Array = rows.astype(np.int64) if not rows.size else rows
        self._values: Array = values.view(np.ndarray)

    @property
    def rows(self) -> Array:
        """As they were given."""
        return self._rows

    @property
    def values(self) -> Array:
        """As they were given."""
        return self._values

    def __repr__(self) -> str:
        return f"RowGrad({len(self.rows)} rows, values of shape {self.values.shape})"


class Rows(NamedTuple):
    """A RowGrad as backends take it."""

    rows: Array  # int64, ascending, none twice
    values: Array  # plain, of shape (len(rows), elements of a row)
    elements: bool = False  # whether the rows are those of the flat parameter


def is_sparse(value: Any) -> bool:
    """Whether this is one of scipy.sparse's kinds; if SciPy is not loaded, it cannot be."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def read(label: str, grad: Any, param: Array, sum_rows: SumRows) -> Rows:
    """Check a RowGrad or a sparse array against its parameter; add up what is there twice."""
    if not param.flags.c_contiguous:
        raise ValueError(f"{label}: gradients of rows need a parameter in C order")
    elements = False
    if isinstance(grad, RowGrad):
        # A copy, since others may write to the user's while it is checked.
        rows, values = grad.rows.copy(), grad.values
        if param.ndim == 0:
            raise ValueError(f"{label}: an array without axes has no rows")
    else:
        rows, values = _stored(label, grad, param)
        param, elements = param.reshape(-1), True
    expected = (len(rows), *param.shape[1:])
    if values.shape != expected:
        raise ValueError(f"{label}: values have the shape {values.shape}, expected {expected}")
    if values.dtype != param.dtype:
        raise TypeError(f"{label}: values have the dtype {values.dtype}, expected {param.dtype}")
    outside = (rows < 0) | (rows >= len(param))
    if outside.any():
        raise ValueError(f"{label}: row {rows[outside][0]} of a parameter that has {len(param)}")
    rows = rows.astype(np.int64, copy=False)
    width = math.prod(param.shape[1:])
    values = np.require(values, requirements=["C", "A"]).reshape(len(rows), width)
    if (rows[1:] > rows[:-1]).all():
        return Rows(rows, values, elements)
    return Rows(*merged(rows, values, sum_rows), elements)


def merged(rows: Array, values: Array, sum_rows: SumRows) -> tuple[Array, Array]:
    """The different rows, ascending, and the sums of their values, in the order given."""
    order = np.argsort(rows, kind="stable").astype(np.int64, copy=False)
    rows = rows[order]
    first = np.ones(len(rows), bool)
    first[1:] = rows[1:] != rows[:-1]
    starts = np.append(np.flatnonzero(first), len(rows)).astype(np.int64, copy=False)
    return rows[first], sum_rows(values, order, starts)


def _stored(label: str, matrix: Any, param: Array) -> tuple[Array, Array]:
    """Where a sparse array's stored elements are in the flat parameter, and their values."""
    if matrix.shape != param.shape or param.ndim != 2:
        raise ValueError(
            f"{label}: a sparse array of shape {matrix.shape}, expected {param.shape} as the "
            "parameter's, and two axes"
        )
    try:
        stored = matrix.tocoo()
    except Exception as error:
        raise ValueError(f"{label}: a sparse array that is not sound: {error}") from error
    row, column = (np.array(index, np.int64) for index in (stored.row, stored.col))
    for index, length in zip((row, column), param.shape, strict=True):
        outside = (index < 0) | (index >= length)
        if outside.any():
            raise ValueError(f"{label}: a sparse array's index {index[outside][0]} of {length}")
    return row * param.shape[1] + column, np.asarray(stored.data)
