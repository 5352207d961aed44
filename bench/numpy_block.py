"""How the NumPy backend's block size changes its speed.

python bench/numpy_block.py
"""

from functools import partial

import numpy as np

import fastadam
from fastadam import _backend, _numpy
from fastadam._bench.timing import measure

N = 1_048_576


def stepper(dtype, block):
    g = np.random.default_rng(0).standard_normal(N).astype(dtype)
    _numpy.BLOCK = block
    return partial(fastadam.Adam(np.ones(N, dtype)).step, g)


def main():
    with _backend.using("numpy"):
        for dtype in ("float32", "float64"):
            timed = {block: stepper(dtype, block) for block in (4096, 16384, 65536, 262144)}
            for block, times in measure(timed).items():
                print(f"{dtype}, block {block:6}: {np.median(times) / N * 1e9:.2f} ns per element")


if __name__ == "__main__":
    main()
