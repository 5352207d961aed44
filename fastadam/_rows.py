"""Gradients of a few rows of an array."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastadam._types import Array

#: A function of each backend that adds up rows, called as sum_rows(values, order, starts).
#: Row j of its result is the sum of the rows order[starts[j]:starts[j + 1]] of `values`, of
#: which there is at least one, added in that order.
SumRows: TypeAlias = Callable[[Array, Array, Array], Array]


class RowGrad:
    """The gradient of some rows of an array, in place of a dense gradient.

    A step then changes those rows and their state alone, and its cost grows with their
    number, not with the array's length (unless the parameter is a strided view, which is
    copied whole). This is lazy Adam: the bias correction goes by the array's step count, and
    the moments of the other rows do not decay.

    Parameters
    ----------
    rows : array_like of int, shape (n,)
        Indices along the parameter's first axis, of any integer dtype and in any
        order. The values of a row that is named several times are added, in order.
    values : ndarray, shape (n, *param.shape[1:])
        The gradients of those rows, of the parameter's dtype.

    Raises
    ------
    TypeError, ValueError
        The constructor raises them if `rows` are no integers or `values` has not as many
        rows. A step raises them, and changes nothing, if a row is not in the parameter, if
        the shape or the dtype of `values` is not the parameter's, if the parameter is not in
        C order, or if a weight decay or an average of the parameters would change the other
        rows.

    See Also
    --------
    A two-dimensional ``scipy.sparse`` array or matrix may stand in place of a gradient, too.
    Then only the elements that it stores, and their state, change.

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
        """The indices of the rows, in the order in which they were given."""
        return self._rows

    @property
    def values(self) -> Array:
        """The gradients of the rows, in the order in which they were given."""
        return self._values

    def __repr__(self) -> str:
        return f"RowGrad({len(self.rows)} rows, values of shape {self.values.shape})"


class Rows(NamedTuple):
    """The gradient of some rows, checked, in the form that the backends take.

    A sparse array becomes one, too: the parameter is then seen as flat, and each element of
    it is a row.
    """

    rows: Array  # their indices: int64, ascending, none twice
    values: Array  # aligned and in C order, of shape (len(rows), elements of a row)
    elements: bool = False  # whether it was a sparse array


def is_sparse(value: Any) -> bool:
    """Whether this is an array or a matrix of scipy.sparse."""
    sparse = sys.modules.get("scipy.sparse")  # until somebody imports it, there are none
    return sparse is not None and bool(sparse.issparse(value))


def read(label: str, grad: Any, param: Array, sum_rows: SumRows) -> Rows:
    """Check a RowGrad or a sparse array against its parameter, and add up equal rows.

    `label` is what messages call the gradient. `param` is the array that the backend steps.
    """
    if not param.flags.c_contiguous:
        raise ValueError(f"{label}: gradients of rows need a parameter in C order")
    elements = False
    if isinstance(grad, RowGrad):
        # Copied, since another thread may write to the user's array after it was checked.
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
    """The distinct rows in ascending order, and for each the sum of its values.

    The values of a row are added in the order in which they are given.
    """
    order = np.argsort(rows, kind="stable").astype(np.int64, copy=False)
    rows = rows[order]
    first = np.ones(len(rows), bool)
    first[1:] = rows[1:] != rows[:-1]
    starts = np.append(np.flatnonzero(first), len(rows)).astype(np.int64, copy=False)
    return rows[first], sum_rows(values, order, starts)


def _stored(label: str, matrix: Any, param: Array) -> tuple[Array, Array]:
    """The indices of a sparse array's stored elements in the flat parameter, and their values."""
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
