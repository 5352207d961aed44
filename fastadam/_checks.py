"""What an array of a user must be like: checks that let it pass, or raise and name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastadam import _codecs
from fastadam._types import Array

DTYPES = tuple(map(np.dtype, (np.float32, np.float64, np.complex64, np.complex128)))
SUPPORTED = "float32, float64, complex64, complex128, float16 or bfloat16"


def kind(value: Any) -> str:
    """What messages call a value of the wrong type: "a dict", "an ndarray" or "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOaeio' or name == 'ndarray' else 'a'} {name}"


def check_written(
    label: str, array: Any, param: Array | None = None, dtype: np.dtype[Any] | None = None
) -> None:
    """Check an array that steps will change in place: a parameter, or of a dtype beside one."""
    _refuse_masked(label, array)
    if not isinstance(array, np.ndarray):
        nesting = "" if param is not None else ", or a dict, list or tuple of them"
        raise TypeError(
            f"{label} is {kind(array)}; expected a numpy.ndarray{nesting}{_remedy(array)}"
        )
    if param is not None:
        _check_shape(label, array, param)
        if array.dtype != dtype:
            raise TypeError(
                f"{label}: dtype {array.dtype}, expected {dtype} as the parameter is {param.dtype}"
            )
    elif not is_supported(array.dtype):
        order = "" if array.dtype.isnative else " (not the native byte order)"
        raise TypeError(f"{label}: dtype {array.dtype}{order}, expected {SUPPORTED}")
    check_writable(label, array)


def check_writable(label: str, array: Array) -> None:
    """Check that a step can write each element of an array by itself."""
    if not array.flags.writeable:
        raise ValueError(
            f"{label} is read-only, and a step changes it in place; make a copy, np.array(x), "
            "and use that from then on"
        )
    if _may_overlap_itself(array):
        raise ValueError(
            f"{label}: its elements may share memory (strides {array.strides}); make a copy, "
            "np.array(x), and use that from then on"
        )


def check_moment(label: str, array: Any, param: Array) -> None:
    """Check a moment that steps will change in place."""
    dtype = _codecs.computed_in(param)
    if dtype == np.float32 and isinstance(array, np.ndarray) and _codecs.is_bfloat16(array.dtype):
        dtype = array.dtype
    check_written(label, array, param, dtype)


def check_rest(label: str, array: Any, param: Array) -> bool:
    """Check what a parameter lacks of a float32; whether it lacks anything."""
    if not _codecs.is_half(param.dtype):
        if array is not None:
            raise ValueError(f"{label}: expected None, as the parameter is {param.dtype}")
        return False
    dtype = np.dtype(np.float32) if param.dtype == _codecs.FLOAT16 else _codecs.REMAINDER
    if array is None:
        raise ValueError(
            f"{label} is None, expected an array of {dtype}, as the parameter is {param.dtype}"
        )
    check_written(label, array, param, dtype)
    return True


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of that dtype can be parameters."""
    return dtype.isnative and (dtype in (*DTYPES, _codecs.FLOAT16) or _codecs.is_bfloat16(dtype))


def is_stepped_in_float32(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of a dtype are, so that hyper-parameters are rounded to that."""
    return dtype in (np.float32, np.complex64) or _codecs.is_half(dtype)


def name_of(dtype: np.dtype[Any]) -> str:
    """What messages call the dtype of an array or of a plain one."""
    return "bfloat16" if dtype == _codecs.BFLOAT16 else str(dtype)


def real_numbers(array: Array) -> int:
    """How many real numbers are in an array: two in each complex element."""
    return array.size * (2 if array.dtype.kind == "c" else 1)


def check_grad(label: str, value: Any, param: Array) -> Array:
    """Check a gradient against its plain parameter; return it as an ndarray.

    It has the parameter's dtype, or is one of float32, float16 and bfloat16 where the parameter
    is one of these. (A bfloat16 one comes back as uint16.)
    """
    grad = check_is_array(label, value, param.dtype, param.shape)
    _check_shape(label, grad, param)
    if grad.dtype == _codecs.BFLOAT16 or (grad.dtype != param.dtype and not may_mix(grad, param)):
        own, others = name_of(param.dtype), ""
        if param.dtype == np.float32 or _codecs.is_half(param.dtype):
            names = ("float32", "float16", "bfloat16")
            others = ", " + " or ".join(name for name in names if name != own)
        raise TypeError(f"{label}: dtype {grad.dtype}, expected {own} as the parameter's{others}")
    if grad.dtype == param.dtype and grad.dtype is not param.dtype:
        grad = grad.view(param.dtype)
    return _codecs.codes_of(grad)


def may_mix(array: Array, param: Array) -> bool:
    """Whether arrays of two dtypes are both real ones that are stepped in float32."""
    return (
        (param.dtype == np.float32 or _codecs.is_half(param.dtype))
        and (
            array.dtype == np.float32
            or array.dtype == _codecs.FLOAT16
            or _codecs.is_bfloat16(array.dtype)
        )
        and array.dtype.isnative
    )


def check_is_array(label: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Check that a value is an array, of whatever kind; messages say what was expected."""
    _refuse_masked(label, value)
    if isinstance(value, list | tuple | Mapping) or not hasattr(type(value), "__array__"):
        raise TypeError(
            f"{label} is {kind(value)}; expected a numpy.ndarray of shape {shape} and dtype "
            f"{name_of(dtype)}"
        )
    try:
        return np.asarray(value)
    except Exception as error:
        raise TypeError(f"{label} gives no numpy.ndarray: {error}") from error


def check_separate(arrays: Sequence[tuple[str, Array]]) -> None:
    """Check that no two arrays share memory."""
    spans = sorted(
        ((*byte_bounds(array), label, array) for label, array in arrays if array.size),
        key=lambda span: span[:2],
    )
    open_spans: list[tuple[int, int, str, Array]] = []
    for span in spans:
        open_spans = [other for other in open_spans if other[1] > span[0]]
        for other in open_spans:
            if _share(other[3], span[3]):
                raise ValueError(
                    f"{other[2]} and {span[2]} share memory; each needs its own (give a parameter "
                    "that a model uses twice only once, with the sum of its gradients)"
                )
        open_spans.append(span)


def _remedy(value: Any) -> str:
    """How to get an array from a value that is none, for the end of a message."""
    if type(value).__module__.partition(".")[0] == "torch":
        return "; fastadam.torch has the optimizers for tensors"
    if hasattr(type(value), "__array__"):
        return "; np.array(x) makes one, and a step changes that one and not x"
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return "; list(x) makes a list of what it gives"
    return ""


def _refuse_masked(label: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{label} is a masked array; pass its .data or .filled() values")


def _check_shape(label: str, array: Array, param: Array) -> None:
    if array.shape != param.shape:
        raise ValueError(f"{label}: shape {array.shape}, expected {param.shape} as the parameter's")


def _may_overlap_itself(array: Array) -> bool:
    """Whether two elements may have memory in common, as in a broadcast array."""
    extent = array.itemsize
    for stride, length in sorted(
        (abs(stride), length) for stride, length in zip(array.strides, array.shape, strict=True)
    ):
        if length > 1:
            if stride < extent:
                return array.size > 0
            extent += stride * (length - 1)
    return False


def _share(a: Array, b: Array) -> bool:
    """Whether two arrays have memory in common; where that is hard to tell, they do."""
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # the stub is too narrow
    except np.exceptions.TooHardError:
        return True
