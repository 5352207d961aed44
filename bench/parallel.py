"""How many steps several threads do together, each with an optimizer of its own, beside one.

python bench/parallel.py
"""

import sys
import threading
import time

import numpy as np

import fastadam

SECONDS = 0.5
ROUNDS = 7


def stepper(n):
    opt, grad = fastadam.Adam(np.ones(n, np.float32)), np.ones(n, np.float32)
    return lambda: opt.step(grad)


def direct(n):
    p, g, m, v = (np.ones(n, np.float32) for _ in range(4))
    return lambda: fastadam.adam_step(p, g, m, v, step=1)


def calls_per_second(make, n, n_threads):
    """Of all threads together."""
    start, counts = threading.Barrier(n_threads), []

    def run():
        call, count, chunk = make(n), 0, max(1, 10_000 // (n + 1))
        start.wait()
        begin = time.perf_counter()
        while (now := time.perf_counter()) < begin + SECONDS:
            for _ in range(chunk):
                call()
            count += chunk
        counts.append(count / (now - begin))

    threads = [threading.Thread(target=run) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def main():
    fastadam.set_num_threads(1)
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'with' if gil else 'without'} a GIL")
    print("call | elements | us, one thread | steps of 2 threads / of 1 | of 4 / of 1")
    for name, make in (("Adam.step", stepper), ("adam_step", direct)):
        for n in (10, 1000, 10_000, 100_000, 1_000_000):
            rates = [[calls_per_second(make, n, k) for k in (1, 2, 4)] for _ in range(ROUNDS)]
            one, two, four = np.transpose(rates)
            print(
                f"{name} | {n:,} | {1e6 / np.median(one):.2f}"
                f" | {np.median(two / one):.2f} | {np.median(four / one):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
