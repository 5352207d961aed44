"""From how many elements on two threads pay.

python bench/threads.py
"""

import numpy as np

import fastadam
from fastadam._bench.timing import measure, ratio


def stepper(n, dtype, threads):
    opt, g = fastadam.Adam(np.ones(n, dtype)), np.ones(n, dtype)

    def step():
        fastadam.set_num_threads(threads)
        opt.step(g)

    return step


def main():
    most = fastadam.get_num_threads()
    print(f"time of 1 thread / time of {most} threads")
    for dtype in ("float32", "float64"):
        for n in (16_384, 32_768, 65_536, 131_072, 262_144, 1_048_576, 16_777_216):
            times = measure({t: stepper(n, dtype, t) for t in (1, most)})
            print(f"{dtype} {n:>12,} {ratio(times, 1, most):.2f}", flush=True)


if __name__ == "__main__":
    main()
