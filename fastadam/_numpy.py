"""The rule in NumPy: the specification, and the stand-in without the extension.

`adam` is csrc/kernel.c and `Scalars` csrc/scalars.c, line for line: the same
names, the same operations in the same order, each rounded once to the dtype.
Adam is Kingma & Ba, arXiv:1412.6980, algorithm 1; AMSGrad is Reddi, Kale &
Kumar, arXiv:1904.09237, algorithm 2; decoupled decay is Loshchilov & Hutter,
arXiv:1711.05101, algorithm 2.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastadam import _fork, _hyper
from fastadam._arrays import DTYPES, REENTERED, Array, Arrays, Counts

Lock = threading.RLock
_batches: weakref.WeakSet[Batch] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child: free the locks of threads that are not there, and note whose state is torn."""
    for batch in list(_batches):
        if not batch._lock.acquire(blocking=False):
            batch._torn = True
            batch._lock._at_fork_reinit()  # type: ignore[attr-defined]
        else:
            batch._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

# Elements worked on at a time. Smaller blocks pay for NumPy's calls, larger ones
# leave the cache; bench/numpy_block.py compares them.
BLOCK = 65536
NORM_BLOCK = 4096  # FA_BLOCK in csrc/fastadam.h: it decides the norm's last bits

REAL = {dtype: np.zeros(0, dtype).real.dtype for dtype in DTYPES}
SMALLEST_NORMAL = {dtype: np.finfo(dtype).smallest_normal for dtype in set(REAL.values())}


class Scalars:
    """The numbers of one step, computed in double and rounded once to the dtype."""

    def __init__(
        self, hyper: _hyper.Hyper, lr: float, factor: float, step: int, dtype: np.dtype[Any]
    ) -> None:
        real = dtype.type
        self.b1, self.b2 = real(hyper.beta1), real(hyper.beta2)
        self.c1, self.c2 = 1 - self.b1, 1 - self.b2
        bc1 = 1 - float(self.b1) ** step
        bc2 = 1 - float(self.b2) ** step
        self.step_size = real(lr * math.sqrt(bc2) / bc1 if hyper.epsilon_hat else lr / bc1)
        self.root = real(1 if hyper.epsilon_hat else 1 / math.sqrt(bc2))
        self.eps = real(hyper.eps)
        self.keep = real(1 - lr * hyper.weight_decay if hyper.decoupled else 1)
        self.coupled = not hyper.decoupled and hyper.weight_decay != 0
        self.weight_decay = real(hyper.weight_decay)
        self.grad_factor = real(-factor if hyper.maximize else factor)
        self.amsgrad = hyper.amsgrad
        self.smallest_normal = SMALLEST_NORMAL[dtype]


def adam(
    k: Scalars, p: Array, grad: Array, m: Array, v: Array, vmax: Array | None, a: Array, b: Array
) -> None:
    """Step one block in place; `a` and `b` are scratch of its size.

    Multiplying by one changes no bit, so it is left out.
    """
    g = grad
    if k.grad_factor != 1:
        g = np.multiply(grad, k.grad_factor, out=a)
    if k.coupled:
        np.multiply(k.weight_decay, p, out=b)
        g = np.add(g, b, out=a)
    np.multiply(k.b1, m, out=m)
    np.multiply(k.c1, g, out=b)
    np.add(m, b, out=m)
    np.multiply(k.b2, v, out=v)
    np.multiply(g, g, out=b)
    np.multiply(k.c2, b, out=b)
    np.add(v, b, out=v)
    # The minimum is a cheap test that most blocks pass; a NaN fails it.
    if not np.abs(m, out=b).min() >= k.smallest_normal:
        m[b < k.smallest_normal] = 0
    if not v.min() >= k.smallest_normal:
        v[np.abs(v, out=b) < k.smallest_normal] = 0
    s = v
    if vmax is not None:
        s = np.maximum(vmax, v, out=vmax)
    denom = np.sqrt(s, out=b)
    if k.root != 1:
        np.multiply(denom, k.root, out=denom)
    np.add(denom, k.eps, out=denom)
    np.multiply(k.step_size, m, out=a)
    np.divide(a, denom, out=a)
    if k.keep != 1:
        np.multiply(p, k.keep, out=p)
    np.subtract(p, a, out=p)


def flat(array: Array) -> Array:
    """A plain array's memory as a vector of real numbers."""
    if array.flags.c_contiguous:
        vector = array.reshape(-1)
    else:
        vector = np.lib.stride_tricks.as_strided(array, (array.size,), (array.itemsize,))
    return vector.view(REAL[vector.dtype])


def block_sums(grad: Array, scale: float, wide: Array) -> Iterator[float]:
    """The sums of squares of a gradient's blocks, in double, in the order of csrc/norm.c."""
    for start in range(0, grad.size, NORM_BLOCK):
        block = grad[start : start + NORM_BLOCK]
        y = np.multiply(block, scale, out=wide[: block.size], dtype=np.float64)
        np.multiply(y, y, out=y)
        whole = y.size - y.size % 16
        sums = np.add.reduce(y[:whole].reshape(-1, 16), axis=0)
        sums[: y.size - whole] += y[whole:]
        for width in (8, 4, 2, 1):
            sums[:width] += sums[width : 2 * width]
        yield float(sums[0])


def grad_norm(grads: Sequence[Array], loss_scale: float, wide: Array) -> float:
    """The L2 norm of all gradients divided by the loss scale; the twin of fa_grad_norm."""

    def total(scale: float) -> float:
        result = 0.0
        for grad in grads:
            for block_sum in block_sums(grad, scale, wide):
                result += block_sum
        return result

    squares = total(1.0)
    info = np.finfo(np.float64)
    if squares == math.inf or squares < info.smallest_normal / info.eps:
        bound = max((float(np.abs(grad).max()) for grad in grads if grad.size), default=0.0)
        if 0 < bound < math.inf:
            exponent = max(math.frexp(bound)[1], -1000)
            root = np.sqrt(total(math.ldexp(1, -exponent)))
            return float(np.ldexp(root / loss_scale, exponent))
    return float(np.sqrt(squares)) / loss_scale


class Batch:
    """The arrays of an optimizer with their step counts; the twin of _native.Batch."""

    def __init__(
        self, arrays: Arrays, counts: Counts, lock: threading.RLock, clip: _hyper.Clip
    ) -> None:
        self.steps = list(counts.steps)
        self.finished = counts.finished
        self.skipped = counts.skipped
        self.grad_norm = math.nan
        self._arrays = arrays
        self._lock = lock
        self._clip = clip
        self._stepping = self._retired = self._torn = False
        _batches.add(self)
        self._flat = [(flat(slot.param), *map(flat, slot.state)) for slot in arrays.slots]
        self._scratch = {
            dtype: np.empty((2, max(min(p.size, BLOCK) for p, *_ in self._flat)), dtype)
            for dtype in {p.dtype for p, *_ in self._flat}
        }
        self._wide = np.empty(NORM_BLOCK if clip.measures else 0)

    def step(self, grads: Any, groups: list[_hyper.Group], loss_scale: float) -> bool:
        """One step of every array that has a gradient; all checks come first.

        False if `retire` was called while this waited for the lock.
        """
        with self._lock:
            if self._retired:
                return False
            self.check_whole()
            self._stepping = True
            try:
                traits = self._arrays.traits
                scale = _hyper.check_loss_scale(loss_scale, traits)
                hypers = self._arrays.check_groups(groups)
                lrs = [
                    _hyper.lr_now(hyper, self.finished, trait)
                    for hyper, trait in zip(hypers, traits, strict=True)
                ]
                plain = self._arrays.plain_gradients(grads)
                vectors = [None if grad is None else flat(grad) for grad in plain]
                with np.errstate(all="ignore"):
                    self._run(vectors, hypers, lrs, scale)
            finally:
                self._stepping = False
            return True

    def retire(self) -> None:
        """Do no more steps: the optimizer has another batch now."""
        self.check_whole()
        self._retired = True

    def check_whole(self) -> None:
        """Raise if this is called from within a step."""
        if self._torn:
            raise RuntimeError(_fork.HELD)
        if self._stepping:
            raise RuntimeError(REENTERED)

    def _run(
        self,
        grads: list[Array | None],
        hypers: list[_hyper.Hyper],
        lrs: list[float],
        loss_scale: float,
    ) -> None:
        clip = 1.0
        if self._clip.measures:
            given = [grad for grad in grads if grad is not None]
            self.grad_norm = grad_norm(given, loss_scale, self._wide)
            if self._clip.skip_nonfinite and not math.isfinite(self.grad_norm):
                self.skipped += 1
                return
            if self._clip.max_grad_norm < math.inf:
                clip = self._clip.max_grad_norm / (self.grad_norm + 1e-6)
            if clip > 1:
                clip = 1.0
        scalars: dict[tuple[int, int, np.dtype[Any]], Scalars] = {}
        for i, (grad, slot) in enumerate(zip(grads, self._arrays.slots, strict=True)):
            if grad is None:
                continue
            group, step, dtype = slot.group, self.steps[i] + 1, grad.dtype
            if (group, step, dtype) not in scalars:
                scalars[group, step, dtype] = Scalars(
                    hypers[group], lrs[group], clip / loss_scale, step, dtype
                )
            self._step_array(i, grad, scalars[group, step, dtype])
            self.steps[i] = step
        self.finished += 1

    def _step_array(self, i: int, grad: Array, k: Scalars) -> None:
        p, m, v, *rest = self._flat[i]
        vmax = rest[0] if k.amsgrad else None
        slot = self._arrays.slots[i]
        for user, plain in slot.copies:
            np.copyto(plain, user)
        for start in range(0, p.size, BLOCK):
            cut = slice(start, start + BLOCK)
            block = p[cut]
            a, b = self._scratch[p.dtype][:, : block.size]
            adam(k, block, grad[cut], m[cut], v[cut], None if vmax is None else vmax[cut], a, b)
        for user, plain in slot.copies:
            np.copyto(user, plain)
