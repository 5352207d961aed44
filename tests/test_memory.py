"""A step makes no arrays."""

import gc
import tracemalloc

import numpy as np
import pytest

import fastadam


@pytest.mark.parametrize(
    "case", ["plain", "nested", "strided parameter", "gradient of another order"]
)
def test_no_array_memory_after_the_first_step(case):
    n = 500
    if case == "nested":
        params = {"a": [np.ones((n, n))], "b": np.ones((n, n))}
        grads = {"a": [np.ones((n, n))], "b": np.ones((n, n))}
    else:
        params = np.ones((n, 2 * n))[:, ::2] if case == "strided parameter" else np.ones((n, n))
        grads = np.ones((n, n), order="F" if "order" in case else "C")
    opt = fastadam.Adam(params, weight_decay=0.1, amsgrad=True)
    opt.step(grads)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(5):
            opt.step(grads)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000  # bytes; an array has 2,000,000


def test_nothing_leaks():
    opt = fastadam.Adam(np.ones(4))
    g = np.ones(4)
    import sys

    before = sys.getrefcount(g)
    for _ in range(100):
        opt.step(g)
        with pytest.raises(ValueError, match="shape"):
            opt.step(np.ones(5))
        opt.step(g, loss_scale=2.0)
    assert sys.getrefcount(g) == before
