"""Tensors as the core takes them: checked, and their memory as arrays."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from fastadam import _rows
from fastadam._codecs import INT8, REMAINDER
from fastadam._slots import is_plain, stored_as
from fastadam._types import Array
from fastadam.torch._dtensor import local_grad, local_of, spread_like

HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128, *HALF)
#: Those of state: besides these, 8-bit moments and the bytes that a bfloat16 parameter lacks.
STORED = (*DTYPES, torch.uint8)
STORAGE_OWNERS = getattr(torch._C, "_storage_Use_Count", None)


class Memory(NamedTuple):
    """A tensor that a step writes, and its memory, which the array owns."""

    name: str
    tensor: torch.Tensor
    array: Array


class Gradient(NamedTuple):
    """A gradient as the core takes it, and the memory in which its numbers are."""

    grad: Array | _rows.RowGrad
    array: Array


def memory_of(name: str, tensor: Any, dtypes: Sequence[torch.dtype] = DTYPES) -> Memory:
    """A tensor that a step writes, checked, and its memory: of a DTensor, that which is here."""
    tensor = local_of(name, tensor)
    _check_strided(name, tensor, dtypes)
    return Memory(name, tensor, array_of(tensor))


def _check_strided(name: str, tensor: Any, dtypes: Sequence[torch.dtype] = DTYPES) -> None:
    """Check that a tensor that a step writes has memory to be written, of a dtype that we know."""
    if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
        raise RuntimeError(
            f"{name}: `fastadam` requires strided Tensors that are not conjugated or negated "
            f"lazily, but it is {tensor.layout} (resolve_conj() and resolve_neg() copy)"
        )
    check_kind(name, tensor, dtypes)


def check_kind(name: str, tensor: Any, dtypes: Sequence[torch.dtype] = DTYPES) -> None:
    if tensor.device.type != "cpu" or tensor.dtype not in dtypes:
        raise RuntimeError(
            f"{name}: `fastadam` requires all the params to be float32, float64, complex64, "
            f"complex128, float16 or bfloat16 Tensors of supported devices: ['cpu'] but found "
            f"{tensor.dtype} on {tensor.device}; convert or move it, or use torch.optim"
        )


def array_of(tensor: Any) -> Array:
    """The memory of a tensor, kept by the array: the tensor may get another, but not resize it."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # as the core has that
        tensor = tensor.view(torch.uint16)
    array: Array = tensor.numpy()
    return array


def tensor_of(array: Any) -> torch.Tensor:
    """The tensor in the memory of an array that is the core's."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def rest_form(param: torch.Tensor, shape: tuple[int, ...]) -> tuple[torch.dtype, tuple[int, ...]]:
    """Dtype and shape of what a parameter in half precision lacks of a float32."""
    if param.dtype == torch.bfloat16:
        return torch.uint8, (*shape, REMAINDER.itemsize)
    return torch.float32, shape


def as_bytes(name: str, rest: Any, param: Any) -> torch.Tensor:
    """What a parameter lacks, in bytes if it is int16, which gloo and NCCL do not send."""
    if rest.dtype != torch.int16:
        return cast(torch.Tensor, rest)
    return spread_like(local_of(name, rest).unsqueeze(-1).view(torch.uint8), param)


def rest_array(memory: Memory) -> Array:
    """The memory of what a parameter lacks, as the core has it."""
    array = memory.array
    if array.dtype != np.uint8:
        return array
    if array.size and array.strides[-1] != 1:
        raise ValueError(
            f"{memory.name} has the strides {memory.tensor.stride()}, expected 1 as the last, "
            "since each number's two bytes must be neighbours"
        )
    return array.view(REMAINDER)[..., 0]


def stored_like(param: Array, state_dtype: str | None) -> tuple[Array, np.dtype[Any]]:
    """A plain array in whose order the state of a parameter lies, and the moments' dtype."""
    dtype = stored_as(param, state_dtype)
    if dtype == INT8:
        return (param if param.flags.c_contiguous else np.empty_like(param, order="C")), dtype
    return (param if is_plain(param) else np.empty_like(param)), dtype


def check_form(memory: Memory, dtype: torch.dtype, shape: tuple[int, ...], reason: str) -> None:
    """Check that state is stored as a step expects it, for that reason."""
    if memory.tensor.dtype != dtype:
        raise TypeError(f"{memory.name} is {memory.tensor.dtype}, expected {dtype} {reason}")
    if memory.array.shape != shape:
        raise ValueError(f"{memory.name} has the shape {memory.array.shape}, expected {shape}")


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """What torch calls the dtype of an array as the core has it."""
    return tensor_of(np.empty(0, dtype)).dtype


def read_grad(name: str, param: Any) -> Gradient | None:
    """A parameter's gradient, if the parameter can be stepped."""
    grad = param.grad
    if grad is None:
        return None
    _check_strided(name, local_of(name, param))
    label = f"the gradient of {name}"
    return gradient_of(label, local_grad(label, grad, param))


def gradient_of(name: str, grad: Any) -> Gradient:
    """A gradient of any kind that there is, or an error."""
    grad = grad.detach()
    if grad.layout == torch.sparse_coo and grad.sparse_dim() == 1:
        check_kind(name, grad)
        rows, values = grad._indices()[0].numpy().copy(), array_of(_real(grad._values()))
        return Gradient(_rows.RowGrad(rows, values), values)
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"{name}: `fastadam` does not support sparse gradients other than an embedding's, "
            "with one sparse dimension"
        )
    check_kind(name, grad)
    array = array_of(_real(grad.resolve_conj().resolve_neg()))
    return Gradient(array, array)


def _real(grad: torch.Tensor) -> torch.Tensor:
    """A gradient in half precision as float32, and others as they are."""
    return grad.float() if grad.dtype in HALF else grad


def is_count(value: Any) -> bool:
    """Whether a step can write a count there."""
    return (
        type(value) is torch.Tensor
        and (value.dtype, value.device.type, value.ndim) == (torch.float64, "cpu", 0)
        and not (value.requires_grad or value.is_inference())
    )


def _owners(tensor: torch.Tensor) -> tuple[int, int, int]:
    """How many own a tensor's memory, and how many hold the object that stands for it."""
    storage = tensor.untyped_storage()
    return (
        STORAGE_OWNERS(storage._cdata) if STORAGE_OWNERS else 0,
        sys.getrefcount(storage),
        weakref.getweakrefcount(storage),
    )


def _owners_at_rest() -> tuple[int, int, int]:
    """What `_owners` says where only a tensor and an array of ours own memory.

    That depends on the versions of torch and of Python, which does not count all that it holds.
    """
    memory = memory_of("a tensor", torch.from_numpy(np.zeros(1)))
    return _owners(memory.tensor)


AT_REST = _owners_at_rest()


def is_aliased(tensor: torch.Tensor) -> bool:
    """Whether others than a tensor and our array own its memory, or may come to.

    One of them could move it, as share_memory_ does, and nothing of the tensor would show it.
    """
    return bool(
        STORAGE_OWNERS is None
        or _owners(tensor) != AT_REST
        or weakref.getweakrefcount(tensor)
        or tensor.is_shared()
    )
