"""How the NumPy backend's block size changes its speed.

python bench/numpy_block.py
"""

import numpy as np
from timing import measure

import fastadam
from fastadam import _backend, _numpy

N = 1_048_576


def main():
    for dtype in (np.float32, np.float64):
        timed = {}
        g = np.random.default_rng(0).standard_normal(N).astype(dtype)
        for block in (4096, 16384, 65536, 262144):

            def step(block=block, made={}):  # noqa: B006
                _numpy.BLOCK = block
                if not made:
                    with _backend.using("numpy"):
                        made["opt"] = fastadam.Adam(np.ones(N, dtype))
                made["opt"].step(g)

            timed[block] = step
        for block, times in measure(timed).items():
            print(f"{np.dtype(dtype)} block {block:6}: {np.median(times) / N * 1e9:.2f} ns an element")


if __name__ == "__main__":
    main()
