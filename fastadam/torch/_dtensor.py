"""DTensors: tensors of which each process has a part. A step works on the part that is here.

What torch says of them is in `torch.distributed.tensor`, which is imported by those who use it.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

from fastadam._codecs import BLOCK


def is_dtensor(tensor: Any) -> bool:
    """Whether a tensor is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_of(name: str, tensor: Any) -> torch.Tensor:
    """The part of a DTensor that this process has; other tensors as they are.

    Raises
    ------
    RuntimeError
        The parts must be summed, or combined in another way, to be the tensor.
    """
    if not is_dtensor(tensor):
        return tensor
    for placement in tensor.placements:
        if placement.is_partial():
            raise RuntimeError(
                f"{name} is a DTensor with the placement {placement}, of which no process has a "
                "part by itself; expected shards or replicas (redistribute() makes them)"
            )
    local = tensor._local_tensor
    # What a collective operation is still computing.
    return local.wait() if hasattr(local, "wait") else local


def local_grad(name: str, grad: Any, param: Any) -> torch.Tensor:
    """The part of a gradient that is here, spread as its parameter is.

    A gradient that is spread otherwise, such as the sums that tensor parallelism leaves to be
    made, becomes ``param.grad`` as it should be: whoever reads it again, as a step may on one
    process and not on another, then waits for nobody.
    """
    if is_dtensor(param) and is_dtensor(grad) and grad.device_mesh == param.device_mesh:
        if tuple(grad.placements) != tuple(param.placements):
            grad = param.grad = grad.redistribute(placements=param.placements)
    elif is_dtensor(param) or is_dtensor(grad):
        raise RuntimeError(
            f"{name} is {_spread(grad)}, expected {_spread(param)} as the parameter is"
        )
    return local_of(name, grad)


def origin_of(param: Any, state_dtype: str | None) -> int:
    """Where the first number of the part that is here stands in a whole DTensor.

    That is 0 where its numbers are not neighbours in the whole, and where blocks of 8 bits would
    begin within a block of the whole.
    """
    if not is_dtensor(param) or not param._local_tensor.is_contiguous():
        return 0
    mesh = param.device_mesh
    shards = [axis for axis, p in enumerate(param.placements) if not p.is_replicate()]
    by_rows = sys.modules["torch.distributed.tensor"].Shard(0)
    if len(shards) != 1 or param.placements[shards[0]] != by_rows:
        return 0
    length = -(-len(param) // mesh.size(shards[0]))  # of all parts but the last
    first = min(mesh.get_local_rank(shards[0]) * length, len(param))
    begin = first * math.prod(param.shape[1:]) * (2 if param.is_complex() else 1)
    return 0 if state_dtype == "int8" and begin % BLOCK else begin


def _spread(tensor: Any) -> str:
    if not is_dtensor(tensor):
        return "a plain tensor"
    return f"a DTensor on {tensor.device_mesh}"


def spread_like(local: torch.Tensor, param: Any) -> torch.Tensor:
    """The DTensor that has that part here, spread as a parameter is; of a plain one, the part.

    The part may have a last axis besides the parameter's, which no process shares with others.
    It is left as it is where it has another form, as moments in 8 bits do.
    """
    if not is_dtensor(param):
        return local
    last = local.shape[param.ndim :]
    if len(last) > 1 or local.shape != (*param._local_tensor.shape, *last):
        return local
    n = math.prod(last)
    dtensor: torch.Tensor = type(param).from_local(
        local,
        param.device_mesh,
        param.placements,
        run_check=False,
        shape=(*param.shape, *last),
        stride=(*(n * stride for stride in param.stride()), *(1 for _ in last)),
    )
    return dtensor


def largest_part(param: Any) -> int:
    """How many numbers of a DTensor the process has that has the most of them."""
    shape = list(param.shape)
    for axis, placement in enumerate(param.placements):
        if not placement.is_replicate():
            shape[placement.dim] = -(-shape[placement.dim] // param.device_mesh.size(axis))
    numbers: int = math.prod(shape) * (2 if param.is_complex() else 1)
    return numbers
