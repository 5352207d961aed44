"""Types that several modules name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class _ArrayLike(Protocol):
    """What NumPy makes an array of, such as a tensor of another library."""

    def __array__(self) -> Array: ...


class _Sparse(Protocol):
    """An array or a matrix of scipy.sparse."""

    def tocoo(self) -> Any: ...


class _Rows(Protocol):
    """A RowGrad."""

    @property
    def rows(self) -> Array: ...
    @property
    def values(self) -> Array: ...


#: A gradient of one array.
Grad: TypeAlias = Array | _ArrayLike | _Sparse | _Rows | None
if TYPE_CHECKING:
    #: Parameters: an array, or arrays nested in dicts, lists and tuples.
    ArrayTree: TypeAlias = Array | Sequence["ArrayTree"] | Mapping[Any, "ArrayTree"]
    #: Gradients, nested as the parameters are.
    GradTree: TypeAlias = Grad | Sequence["GradTree"] | Mapping[Any, "GradTree"]
else:  # typing.get_type_hints would look the names up where they are used
    ArrayTree = Array | Sequence[Any] | Mapping[Any, Any]
    GradTree = Grad | Sequence[Any] | Mapping[Any, Any]
#: Parameters with options of their own.
ParamGroups: TypeAlias = Sequence[Mapping[str, Any]]
