"""What state and parameters in fewer bits cost and save, beside float32 and other optimizers.

    python bench/compressed.py [ELEMENTS]

One array, 67,108,864 numbers unless told otherwise. First the bytes of state for each of them: what
`state_bytes` says, and by how much the process grew when the optimizer was made and made a step.
Then for one thread and for two, interleaved in one process, medians: the time of a step of AdamW
with float32 state, and how many times as fast others are. Where they are installed, PyTorch's fused
AdamW is measured on bfloat16 parameters, gradients and moments, and so is DeepSpeed's CPUAdam with
``fp32_optimizer_states=False``. FASTADAM_ISA chooses another instruction set.
"""

import gc
import os
import sys

import numpy as np

import fastadam
from fastadam._bench.timing import measure, ratio

BASE = "float32"


OURS = {  # how moments are stored, and whether parameters and gradients are bfloat16
    BASE: (None, False),
    "bfloat16 state": ("bfloat16", False),
    "8-bit state": ("int8", False),
    "bfloat16 parameters, float32 state": (None, True),
    "bfloat16 parameters and state": ("bfloat16", True),
    "bfloat16 parameters, 8-bit state": ("int8", True),
}


def arrays(n, half):
    dtype = np.float32
    if half:
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    return np.full(n, 1, dtype), np.full(n, 1e-3, dtype)


def ours(n, state_dtype, half):
    param, grad = arrays(n, half)
    optimizer = fastadam.AdamW(param, state_dtype=state_dtype)
    return lambda: optimizer.step(grad)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def print_memory(n, name, state_dtype, half):
    param, grad = arrays(n, half)
    gc.collect()
    before = resident()
    optimizer = fastadam.AdamW(param, state_dtype=state_dtype)
    optimizer.step(grad)
    grown = resident() - before
    print(f"  {name:36} {optimizer.state_bytes / n:8.2f} {grown / n:8.2f}", flush=True)


def torch_fused(n):
    import torch

    param = torch.ones(n, dtype=torch.bfloat16).requires_grad_()
    param.grad = torch.full_like(param, 1e-3)
    return torch.optim.AdamW([param], fused=True).step


def deepspeed(n):
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    param = torch.nn.Parameter(torch.ones(n, dtype=torch.bfloat16))
    param.grad = torch.full_like(param, 1e-3)
    return DeepSpeedCPUAdam([param], adamw_mode=True, fp32_optimizer_states=False).step


OTHERS = {"torch fused, bfloat16": torch_fused, "DeepSpeed CPUAdam, bfloat16": deepspeed}


def set_threads(threads):
    fastadam.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 67_108_864
    config = fastadam.show_config(mode="dicts")
    print(f"{n:,} numbers; {config}")
    print("bytes of state a number: state_bytes, and resident")
    for name, options in OURS.items():
        print_memory(n, name, *options)
    steps = {name: ours(n, *options) for name, options in OURS.items()}
    for name, make in OTHERS.items():
        try:
            steps[name] = make(n)
        except ImportError as error:
            print(f"without {name}: {error}")
    for threads in (1, 2):
        set_threads(threads)
        times = measure(steps, rounds=9)
        print(f"{threads} thread{'s' * (threads > 1)}: ns a number, and how fast beside {BASE}")
        for name in steps:
            each = 1e9 * np.median(times[name]) / n
            print(f"  {name:36} {each:6.3f} {ratio(times, BASE, name):6.2f}", flush=True)


if __name__ == "__main__":
    main()
