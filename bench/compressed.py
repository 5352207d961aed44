"""What state and parameters in fewer bits cost and save, beside float32 and other optimizers.

    python bench/compressed.py [ELEMENTS]

One array, 67,108,864 numbers unless told otherwise. For one thread and for two, interleaved in one
process, medians: the time of a step of Adam with float32 state, and how many times as fast others
are. PyTorch's fused AdamW is measured where it is installed, on bfloat16 parameters, gradients and
moments, and so is DeepSpeed's CPUAdam with ``fp32_optimizer_states=False``.
"""

import sys

import numpy as np

import fastadam
from fastadam._bench.timing import measure, ratio

BASE = "float32"


def ours(n, state_dtype=None, half=False):
    param, grad = np.ones(n, np.float32), np.full(n, 1e-3, np.float32)
    if half:
        import ml_dtypes

        param, grad = param.astype(ml_dtypes.bfloat16), grad.astype(ml_dtypes.bfloat16)
    optimizer = fastadam.AdamW(param, state_dtype=state_dtype)
    return lambda: optimizer.step(grad)


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


MAKERS = {
    BASE: ours,
    "bfloat16 state": lambda n: ours(n, "bfloat16"),
    "8-bit state": lambda n: ours(n, "int8"),
    "bfloat16 parameters, float32 state": lambda n: ours(n, None, half=True),
    "bfloat16 parameters and state": lambda n: ours(n, "bfloat16", half=True),
    "bfloat16 parameters, 8-bit state": lambda n: ours(n, "int8", half=True),
    "torch fused, bfloat16": torch_fused,
    "DeepSpeed CPUAdam, bfloat16": deepspeed,
}


def set_threads(threads):
    fastadam.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 67_108_864
    config = fastadam.show_config(mode="dicts")
    print(f"{n:,} numbers; {config}")
    steps = {}
    for name, make in MAKERS.items():
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
