"""A step on the CPU as engines that offload ask for it, beside torch's and DeepSpeed's.

    pip install '.[torch]' && python bench/offload.py

AdamW, as many threads as torch takes; interleaved in one process, medians. The parameters of GPT-2
small (148 tensors, 124 million numbers) as plain tensors and as DTensors (one process, one shard),
in float32 and bfloat16; 1,000 optimizers of one tensor of 10,000 numbers, as torchao makes them,
and whether their steps take longer after many; and one flat tensor, as DeepSpeed's stages do, where
DeepSpeed's CPUAdam is measured if it is installed.
"""

import os
import tempfile
from time import perf_counter

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import fastadam
import fastadam.torch
from fastadam._bench.timing import measure, ratio

BLOCK = [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]
BLOCK += [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]
GPT2 = [(50257, 768), (1024, 768), *(12 * BLOCK), (768,), (768,)]
OURS, FUSED, DEFAULT = "fastadam", "torch fused", "torch default"


def fused(params, **options):
    return torch.optim.AdamW(params, fused=True, **options)


MAKERS = {OURS: fastadam.torch.AdamW, FUSED: fused, DEFAULT: torch.optim.AdamW}


def params_of(shapes, dtype, mesh=None):
    params = []
    for shape in shapes:
        value, grad = torch.randn(shape, dtype=dtype), 1e-3 * torch.randn(shape, dtype=dtype)
        if mesh is not None:
            value, grad = (distribute_tensor(t, mesh, [Shard(0)]) for t in (value, grad))
        params.append(nn.Parameter(value))
        params[-1].grad = grad
    return params


def show(title, steps, base, rounds=9):
    times = measure(steps, rounds=rounds)
    print(title)
    for name in steps:
        ms = 1e3 * np.median(times[name])
        print(f"  {name:34} {ms:9.2f} ms {ratio(times, name, base):6.2f} of {base}", flush=True)


def model(dtype, mesh):
    steps = {}
    for name, make in MAKERS.items():
        for how, on in (("", None), (", DTensors", mesh)):
            if (name, how) != (FUSED, ", DTensors"):  # which torch has not
                steps[name + how] = make(params_of(GPT2, dtype, on)).step
    show(f"GPT-2 small, {dtype}", steps, OURS)


def step_of_many(name, dtype):
    optimizers = [MAKERS[name](params_of([(10_000,)], dtype)) for _ in range(1000)]
    return lambda: [optimizer.step() for optimizer in optimizers]


def many(dtype):
    steps = {name: step_of_many(name, dtype) for name in (OURS, FUSED)}
    show(f"1,000 optimizers of 10,000 numbers, {dtype}", steps, OURS)


def long_run(dtype):
    step = step_of_many(OURS, dtype)
    ms = []
    for _ in range(2000):
        start = perf_counter()
        step()
        ms.append(1e3 * (perf_counter() - start))
    first, last = np.median(ms[:100]), np.median(ms[-100:])
    print(f"The same, 2,000 steps, {dtype}")
    print(f"  {'first 100':34} {first:9.2f} ms")
    print(f"  {'last 100':34} {last:9.2f} ms {last / first:6.2f} of first 100", flush=True)


def deepspeed(params, **options):
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(params, **options)


def flat(dtype, state_dtype):
    n = 2**26
    steps = {OURS: fastadam.torch.AdamW(params_of([(n,)], dtype), state_dtype=state_dtype).step}
    steps[FUSED] = fused(params_of([(n,)], dtype)).step
    try:
        options = {} if state_dtype is None else {"fp32_optimizer_states": False}
        steps["DeepSpeed CPUAdam"] = deepspeed(params_of([(n,)], dtype), **options).step
    except ImportError as error:
        print(f"without DeepSpeed: {error}")
    show(f"{n:,} numbers, {dtype}, state {state_dtype or 'float32'}", steps, OURS)


def main():
    print(fastadam.show_config(mode="dicts")["instruction_set"], torch.get_num_threads(), "threads")
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{os.path.join(folder, 'store')}"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        mesh = init_device_mesh("cpu", (1,))
        for dtype in (torch.float32, torch.bfloat16):
            model(dtype, mesh)
        many(torch.float32)
        many(torch.bfloat16)
        long_run(torch.float32)
        flat(torch.float32, None)
        flat(torch.bfloat16, "bfloat16")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
