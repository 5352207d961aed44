"""One step of one array, for pytest-benchmark.

    pip install '.[bench]' && pytest bench

Compares a pure-Python loop over lists, textbook NumPy, and fastadam on NumPy and
on every instruction set of this CPU.
"""

import numpy as np
import pytest

from fastadam import _backend
from fastadam._bench import rivals

SIZES = (10, 1_000, 65_536, 1_048_576, 16_777_216)
PURE_PYTHON_LIMIT = 100_000  # elements; more would take minutes


def names(n):
    pure = ["pure Python"] if n <= PURE_PYTHON_LIMIT else []
    return [*pure, "textbook NumPy", *(f"fastadam {name}" for name in _backend.available)]


@pytest.mark.parametrize(("n", "rival"), [(n, rival) for n in SIZES for rival in names(n)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step(benchmark, n, rival, dtype):
    benchmark.group = f"{n:,} {dtype}"
    p, g = np.ones(n, dtype), np.random.default_rng(0).standard_normal(n).astype(dtype)
    if rival == "pure Python":
        benchmark(rivals.pure_python([p], [g]))
    elif rival == "textbook NumPy":
        benchmark(rivals.textbook([p], [g]))
    else:
        with _backend.using(rival.removeprefix("fastadam ")):
            benchmark(rivals.ours([p], [g]))
    benchmark.extra_info["ns_per_element"] = benchmark.stats["median"] / n * 1e9
