"""Types that several modules name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    from fastadam._rows import RowGrad

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class _ArrayLike(Protocol):
    """What NumPy makes an array of, such as a tensor of another library."""

    def __array__(self) -> Array: ...


class _Sparse(Protocol):
    """An array or a matrix of scipy.sparse."""

    def tocoo(self) -> Any: ...


#: A gradient of one array.
Grad: TypeAlias = Union[Array, _ArrayLike, _Sparse, "RowGrad", None]
#: Parameters: an array, or arrays nested in dicts, lists and tuples.
ArrayTree: TypeAlias = Array | Sequence["ArrayTree"] | Mapping[Any, "ArrayTree"]
#: Gradients, nested as the parameters are.
GradTree: TypeAlias = Grad | Sequence["GradTree"] | Mapping[Any, "GradTree"]
#: Parameters with options of their own.
ParamGroups: TypeAlias = Sequence[Mapping[str, Any]]
