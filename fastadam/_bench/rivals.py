"""The other ways to do an Adam step that benchmarks compare with.

Each takes arrays and their gradients and returns a function that does a step.
A rival raises ImportError where its package is missing.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

import fastadam
from fastadam import _backend
from fastadam._types import Array

Step = Callable[[], Any]
Maker = Callable[[list[Array], list[Array]], Step]
LR, B1, B2, EPS = 1e-3, 0.9, 0.999, 1e-8


def ours(params: list[Array], grads: list[Array]) -> Step:
    return partial(fastadam.Adam(params, LR).step, grads)


def ours_clipped(params: list[Array], grads: list[Array]) -> Step:
    return partial(fastadam.AdamW(params, LR, max_grad_norm=1.0).step, grads)


def stand_in(params: list[Array], grads: list[Array]) -> Step:
    """fastadam without its compiled extension."""
    with _backend.using("numpy"):
        return partial(fastadam.Adam(params, LR).step, grads)


def streams(params: list[Array], grads: list[Array]) -> Step:
    """The loads and stores of a step with one addition each: the machine's limit."""
    return partial(fastadam.Adam(params, LR)._batch.streams, grads)


def pure_python(params: list[Array], grads: list[Array]) -> Step:
    """A loop over lists of floats."""
    ps, gs = [p.tolist() for p in params], [g.tolist() for g in grads]
    ms, vs = [[0.0] * len(p) for p in ps], [[0.0] * len(p) for p in ps]
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        c1, c2 = 1 - B1**t, 1 - B2**t
        for p, grad, m, v in zip(ps, gs, ms, vs, strict=True):
            for i, g in enumerate(grad):
                m[i] = B1 * m[i] + (1 - B1) * g
                v[i] = B2 * v[i] + (1 - B2) * g * g
                p[i] -= LR * (m[i] / c1) / (math.sqrt(v[i] / c2) + EPS)

    return step


def textbook(params: list[Array], grads: list[Array]) -> Step:
    """Algorithm 1 of arXiv:1412.6980, one NumPy expression a line."""
    ms, vs = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            ms[i] = B1 * ms[i] + (1 - B1) * g
            vs[i] = B2 * vs[i] + (1 - B2) * g**2
            m_hat = ms[i] / (1 - B1**t)
            v_hat = vs[i] / (1 - B2**t)
            p -= LR * m_hat / (np.sqrt(v_hat) + EPS)

    return step


def in_place(params: list[Array], grads: list[Array]) -> Step:
    """NumPy without temporaries: every operation writes into an array made before."""
    ms, vs = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    scratch = [np.empty_like(p) for p in params]
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        root = math.sqrt(1 - B2**t)
        for p, g, m, v, s in zip(params, grads, ms, vs, scratch, strict=True):
            np.multiply(m, B1, out=m)
            np.multiply(g, 1 - B1, out=s)
            np.add(m, s, out=m)
            np.multiply(v, B2, out=v)
            np.multiply(g, g, out=s)
            np.multiply(s, 1 - B2, out=s)
            np.add(v, s, out=v)
            np.sqrt(v, out=s)
            np.add(s, EPS * root, out=s)
            np.divide(m, s, out=s)
            np.multiply(s, LR * root / (1 - B1**t), out=s)
            np.subtract(p, s, out=p)

    return step


def numba_parallel(params: list[Array], grads: list[Array]) -> Step:
    import numba

    @numba.njit(parallel=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
    def update(p: Array, g: Array, m: Array, v: Array, step_size: Any, root: Any, k: Any) -> None:
        b1, c1, b2, c2, eps = k
        for i in numba.prange(p.size):
            m[i] = b1 * m[i] + c1 * g[i]
            v[i] = b2 * v[i] + c2 * g[i] * g[i]
            p[i] -= step_size * m[i] / (np.sqrt(v[i]) * root + eps)

    ms, vs = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    real = params[0].dtype.type
    k = tuple(map(real, (B1, 1 - B1, B2, 1 - B2, EPS)))
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        step_size, root = real(LR / (1 - B1**t)), real(1 / math.sqrt(1 - B2**t))
        for p, g, m, v in zip(params, grads, ms, vs, strict=True):
            update(p, g, m, v, step_size, root, k)

    return step


def torch_adam(params: list[Array], grads: list[Array], **how: Any) -> Step:
    import torch

    tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    step: Step = torch.optim.Adam(tensors, LR, **how).step
    return step


def torch_clipped(params: list[Array], grads: list[Array]) -> Step:
    """What max_grad_norm does, in torch: clip_grad_norm_ and then fused AdamW."""
    import torch

    tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    opt = torch.optim.AdamW(tensors, LR, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(tensors, 1.0, foreach=True)
        opt.step()

    return step


def sklearn_adam(params: list[Array], grads: list[Array]) -> Step:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    return partial(AdamOptimizer(params, LR).update_params, params, grads)


def thinc_adam(params: list[Array], grads: list[Array]) -> Step:
    """float32 only; it zeroes the gradients, which changes nothing about its time."""
    if params[0].dtype != np.float32:
        raise ImportError("thinc's Adam takes float32 only")
    from thinc.optimizers import Adam

    opt = Adam(LR, grad_clip=0.0, use_averages=False)
    grads = [g.copy() for g in grads]

    def step() -> None:
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            opt((i, "p"), p, g)

    return step


def deepspeed_adam(params: list[Array], grads: list[Array]) -> Step:
    """DeepSpeedCPUAdam, float32 only here; it is compiled on first use, where that works."""
    if params[0].dtype != np.float32:
        raise ImportError("DeepSpeed's CPUAdam takes no float64")
    import torch

    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
        opt = DeepSpeedCPUAdam(tensors, lr=LR)
    except Exception as error:
        raise ImportError(f"DeepSpeed's CPUAdam does not build here: {error}") from error
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    step: Step = opt.step
    return step


#: Everything that fastadam is compared with, slowest kind first.
RIVALS: dict[str, Maker] = {
    "pure Python": pure_python,
    "textbook NumPy": textbook,
    "in-place NumPy": in_place,
    "fastadam on NumPy": stand_in,
    "numba parallel": numba_parallel,
    "torch loop": partial(torch_adam, foreach=False),
    "torch foreach": partial(torch_adam, foreach=True),
    "torch fused": partial(torch_adam, fused=True),
    "scikit-learn": sklearn_adam,
    "thinc": thinc_adam,
    "DeepSpeed": deepspeed_adam,
}


def make_steps(
    makers: Mapping[str, Maker], params: list[Array], grads: list[Array]
) -> tuple[dict[str, Step], dict[str, str]]:
    """The steps of those that can do one here, and why the others cannot."""
    steps, missing = {}, {}
    for name, make in makers.items():
        try:
            steps[name] = make([p.copy() for p in params], grads)
        except ImportError as error:
            missing[name] = str(error)
    return steps, missing


def set_threads(threads: int) -> None:
    """For fastadam and for every imported rival that has threads of its own."""
    if "deepspeed" in sys.modules:  # has no setting
        sys.modules["threadpoolctl"].threadpool_limits(threads, user_api="openmp")
    fastadam.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "numba" in sys.modules:  # raises an error for more than it has
        numba = sys.modules["numba"]
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
