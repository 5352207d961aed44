"""From how many elements on threads pay: straight after another step, when its threads may
still be spinning (waiting in a loop for work), and after the training loop did something else
for 20 ms, when they are asleep and must be woken.

python bench/threads.py
"""

import time

import numpy as np

import fastadam


def seconds(step, pause):
    end = time.perf_counter() + pause
    while time.perf_counter() < end:
        pass
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def ratio(n, dtype, most, pause, rounds):
    """The median over rounds of one thread's time over that of `most`."""
    steps = {}
    for threads in (1, most):
        opt, g = fastadam.Adam(np.ones(n, dtype)), np.ones(n, dtype)
        steps[threads] = lambda opt=opt, g=g: opt.step(g)
    ratios = []
    for _ in range(rounds):
        times = {}
        for threads, step in steps.items():
            fastadam.set_num_threads(threads)
            seconds(step, 0)  # both have their arrays in the cache, and spinning threads
            times[threads] = seconds(step, pause)
        ratios.append(times[1] / times[most])
    return np.median(ratios)


def main():
    most = fastadam.get_num_threads()
    print(
        f"How many times as long a step takes with 1 thread as with {most}: above 1, threads pay.\n"
        "Straight after another step its threads may still be spinning (waiting in a loop for\n"
        "work); after 20 ms of something else they are asleep and must be woken.\n\n"
        "dtype   |     elements | after a step | after 20 ms"
    )
    for dtype in ("float32", "float64"):
        for n in (65_536, 131_072, 262_144, 524_288, 1_048_576, 16_777_216):
            spinning, asleep = ratio(n, dtype, most, 0, 200), ratio(n, dtype, most, 0.02, 40)
            print(f"{dtype} | {n:>12,} | {spinning:12.2f} | {asleep:11.2f}", flush=True)


if __name__ == "__main__":
    main()
