"""One thread against the machine's limit and against textbook NumPy.

    python bench/limit.py

For one array of each size: what an element costs in `opt.step`, what it costs to
move the same memory with one addition for each store, and what textbook NumPy
takes. All interleaved in one process; medians.
"""

import numpy as np
from rivals import Textbook
from timing import measure, ratio

import fastadam
from fastadam import _backend, _native

SIZES = (10, 1_000, 65_536, 262_144, 1_048_576, 16_777_216, 67_108_864)


def functions(n, dtype):
    rng = np.random.default_rng(0)
    g = rng.standard_normal(n, np.float32).astype(dtype)
    opt = fastadam.Adam(np.ones(n, dtype))
    p, m, v = np.ones(n, dtype), np.zeros(n, dtype), np.zeros(n, dtype)
    timed = {
        "fastadam": lambda: opt.step(g),
        "streams": lambda: _native.streams(p, g, m, v),
    }
    if n <= 16_777_216:
        textbook = Textbook(np.ones(n, dtype))
        timed["textbook"] = lambda: textbook.step(g)
        with _backend.using("numpy"):
            stand_in = fastadam.Adam(np.ones(n, dtype))
        timed["numpy backend"] = lambda: stand_in.step(g)
    return timed


def main():
    print(f"instruction set: {fastadam.show_config('dicts')['instruction_set']}, one thread")
    print(
        "| dtype | elements | us a step | ns an element | / streams only "
        "| textbook / fastadam | textbook / NumPy backend |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for dtype in (np.float32, np.float64):
        for n in SIZES if dtype == np.float32 else (*SIZES[:-1], SIZES[-1] // 2):
            times = measure(functions(n, dtype), rounds=15 if n < 2_000_000 else 7)
            step = np.median(times["fastadam"])
            slower = [
                f"{ratio(times, 'textbook', fast):.1f}" if "textbook" in times else ""
                for fast in ("fastadam", "numpy backend")
            ]
            print(
                f"| {np.dtype(dtype)} | {n:,} | {step * 1e6:,.2f} | {step / n * 1e9:.3g} "
                f"| {ratio(times, 'fastadam', 'streams'):.2f} | {slower[0]} | {slower[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
