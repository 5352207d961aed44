"""What several processes of as many threads as there are CPUs do to each other, beside processes
of one thread each, and what one process alone takes.

python bench/contention.py
"""

import subprocess
import sys
import time

import numpy as np

import fastadam

SECONDS = 2.0


def steps_per_second(n, threads):
    fastadam.set_num_threads(threads)
    opt, g = fastadam.Adam(np.ones(n, np.float32)), np.ones(n, np.float32)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() < start + SECONDS:
        opt.step(g)
        steps += 1
    return steps / (time.perf_counter() - start)


def microseconds(n, threads, processes):
    """The mean time of a step where so many processes run at once."""
    command = [sys.executable, "-P", __file__, str(n), str(threads)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    return 1e6 / np.mean([float(child.communicate()[0]) for child in children])


def main():
    most = fastadam.get_num_threads()
    cases = [(1, 1), (most, 1), (1, most), (most, most)]
    print("elements", *(f"{p} processes of {t} threads, us" for t, p in cases), sep=" | ")
    for n in (262_144, 524_288, 4_194_304):
        times = np.median([[microseconds(n, *case) for case in cases] for _ in range(5)], axis=0)
        print(f"{n:,}", *(f"{t:,.0f}" for t in times), sep=" | ", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(steps_per_second(*map(int, sys.argv[1:])))
    else:
        main()
