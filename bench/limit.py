"""How near a step comes to the machine's limit, up to 67,108,864 elements.

    python bench/limit.py [THREADS]

For one array of each size, interleaved in one process, medians: the time of a step, and
how many times it the streams alone take (same loads and stores, one addition for each
store), torch's fused Adam, textbook NumPy and fastadam on NumPy.
"""

import sys

import numpy as np

from fastadam._bench import rivals
from fastadam._bench.cli import Work, in_words, make_arrays
from fastadam._bench.timing import measure, ratio

SIZES = (10, 1_000, 65_536, 262_144, 1_048_576, 16_777_216, 67_108_864)
NUMPY_LIMIT = 2_000_000  # elements; more would take minutes


def makers(n):
    numpy = {"textbook NumPy": rivals.textbook, "fastadam on NumPy": rivals.stand_in}
    return {
        "fastadam": rivals.ours,
        "streams only": rivals.streams,
        "torch fused": rivals.RIVALS["torch fused"],
        **(numpy if n <= NUMPY_LIMIT else {}),
    }


def main():
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    names = list(makers(1))
    print(f"{in_words(threads)} | elements | fastadam, us | " + " | ".join(names[1:]))
    for dtype in ("float32", "float64"):
        for n in SIZES if dtype == "float32" else (*SIZES[:-1], SIZES[-1] // 2):
            steps, _ = rivals.make_steps(makers(n), *make_arrays(Work(1, n), dtype))
            rivals.set_threads(threads)
            times = measure(steps, rounds=15 if n <= NUMPY_LIMIT else 9)
            multiples = [
                f"{ratio(times, k, 'fastadam'):8.2f}" if k in times else "" for k in names[1:]
            ]
            step = np.median(times["fastadam"]) * 1e6
            print(f"{dtype} | {n:,} | {step:,.2f} | " + " | ".join(multiples), flush=True)


if __name__ == "__main__":
    main()
