"""Gradients of a few rows of an array."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastadam._checks import kind, may_mix, name_of
from fastadam._codecs import BFLOAT16, numbers_of
from fastadam._types import Array

#: A function of each backend that adds up rows, called as sum_rows(values, order, starts).
#: Row j of its result is the sum of the rows order[starts[j]:starts[j + 1]] of `values`, of
#: which there is at least one, added in that order.
SumRows: TypeAlias = Callable[[Array, Array, Array], Array]


class RowGrad:
    """The gradient of some rows of an array, in place of a dense gradient.

    This is *lazy* Adam, and its result differs from that of the dense gradient that is zero in
    all other rows. With a dense gradient every row is stepped each time: where the
    gradient is zero, the moments decay, and what is left of them still moves the parameter.
    With a RowGrad the rows that it does not name stay as they are, and so do their moments.
    With ``lr=0.1``, for example, a row whose gradient is 1 and then, in the second step, 0 goes
    from 0 to -0.1 and on to -0.167; it stays at -0.1 if the second RowGrad does not name it.
    The bias correction goes by the array's step count, which is the same for all rows.

    What it brings is speed: a step's cost grows with the number of rows that it names, not with
    the array's length (unless the parameter is a strided view, which is copied whole).

    Parameters
    ----------
    rows : array_like of int, shape (n,)
        Indices along the parameter's first axis, of any integer dtype and in any
        order; negative ones are not counted from the end, but refused. The values of a row
        that is named several times are added, in order.
    values : ndarray, shape ``(n, *param.shape[1:])``
        The gradients of those rows, of the parameter's dtype. As in `Adam.step`, float32,
        float16 and bfloat16 may be mixed.

    Raises
    ------
    TypeError, ValueError
        The constructor raises them if `rows` are no integers or `values` has not as many
        rows. A step raises them, and changes nothing, if a row is not in the parameter, if
        the shape or the dtype of `values` does not fit, if the parameter is not in C order, or
        if a weight decay or an average of the parameters would change the other rows, or 8-bit
        state does not have whole blocks for each row (see `Adam`). (The weight decay of `AdamW`
        is 0.01 unless you set it: put the table into a param group with ``weight_decay=0``.)

    Notes
    -----
    A ``scipy.sparse`` array or matrix of the parameter's shape may stand in place of a gradient,
    too, of a vector (``coo_array`` of shape ``(n,)``) as of a matrix. It is as lazy, element by
    element: those that it does not store, and their state, stay as they are.

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
            raise TypeError(f"values is {kind(values)}; expected a numpy.ndarray")
        if values.ndim == 0 or len(values) != len(rows):
            raise ValueError(
                f"values: shape {values.shape}, expected ({len(rows)}, ...), a row for each entry "
                "of `rows`"
            )
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
        raise ValueError(
            f"{label}: a RowGrad or a sparse array needs a parameter in C order; "
            "make the parameter with np.ascontiguousarray(x)"
        )
    elements = False
    if isinstance(grad, RowGrad):
        # Copied, since another thread may write to the user's array after it was checked.
        rows, values = grad.rows.copy(), grad.values
        if param.ndim == 0:
            raise ValueError(f"{label}: an array without axes has no rows; give an ndarray")
    else:
        rows, values = _stored(label, grad, param)
        param, elements = param.reshape(-1), True
    expected = (len(rows), *param.shape[1:])
    found = f"{label}: a sparse array's values have" if elements else f"{label}: values have"
    if values.shape != expected:
        raise ValueError(f"{found} the shape {values.shape}, expected {expected}")
    if (values.dtype != param.dtype or values.dtype == BFLOAT16) and not may_mix(values, param):
        raise TypeError(f"{found} the dtype {values.dtype}, expected {name_of(param.dtype)}")
    values = numbers_of(values)
    _check_range(label, "row", rows, len(param), "rows")
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
    if matrix.shape != param.shape:
        raise ValueError(
            f"{label}: a sparse array of shape {matrix.shape}, expected {param.shape} as the "
            "parameter's"
        )
    try:
        stored = matrix.tocoo()
    except Exception as error:
        raise ValueError(f"{label}: a sparse array that is not sound: {error}") from error
    places: Any = 0
    for axis, length in enumerate(param.shape):
        indices = np.array(stored.coords[axis], np.int64)
        _check_range(label, f"a sparse array's index on axis {axis}:", indices, length, "elements")
        places = places * length + indices
    return places, np.asarray(stored.data)


def _check_range(label: str, name: str, indices: Array, length: int, what: str) -> None:
    """Check that indices are those of an axis of that length."""
    outside = indices[(indices < 0) | (indices >= length)]
    if outside.size:
        found = f"{label}: {name} {outside[0]}"
        if outside[0] < 0:
            raise ValueError(f"{found} is negative; indices are not counted from the end")
        raise ValueError(f"{found} is out of range for {length} {what}")
