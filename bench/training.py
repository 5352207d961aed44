"""What training loops add to a step: gradients of rows, an average, checkpoints.

    python bench/training.py          # 12 GB of memory, 4 GB of disk
    python bench/training.py --quick  # a tenth of it

Interleaved in one process, medians.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import fastadam
from fastadam._bench.cli import in_words
from fastadam._bench.timing import measure, ratio


def rows(count):
    """1,000 rows of a table of 64 columns, in place of a dense gradient."""
    rng = np.random.default_rng(0)
    table = np.ones((count, 64), np.float32)
    opt = fastadam.Adam(table)
    chosen = rng.integers(0, count, 1_000)
    grad = fastadam.RowGrad(chosen, rng.standard_normal((1_000, 64), np.float32))
    dense = np.ones_like(table)
    times = measure({"dense": lambda: opt.step(dense), "rows": lambda: opt.step(grad)}, 7)
    print(
        f"1,000 rows of {count:,} x 64 float32: {np.median(times['rows']) * 1e6:,.0f} us, "
        f"{ratio(times, 'dense', 'rows'):,.0f} times faster than a dense step"
    )


def average(elements):
    """An exponential moving average of the parameters, in the same pass."""
    steps = {}
    for decay in (None, 0.999):
        opt = fastadam.Adam(np.ones(elements, np.float32), ema_decay=decay)
        grad = np.ones(elements, np.float32)
        steps[decay] = lambda opt=opt, grad=grad: opt.step(grad)
    times = measure(steps)
    print(f"{elements:,} float32 with an average: {ratio(times, 0.999, None):.2f} of a plain step")


def checkpoint(elements):
    """save and load beside np.save and np.load of the same bytes."""
    opt = fastadam.Adam(np.ones(elements, np.float32))
    state = [np.ones(elements, np.float32) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        files = [path / f"{i}.npy" for i in range(len(state))]

        def np_save(sync=False):
            for name, array in zip(files, state, strict=True):
                with open(name, "wb") as file:
                    np.save(file, array)
                    if sync:
                        file.flush()
                        os.fsync(file.fileno())

        work = {
            "np.save": np_save,
            "np.save and fsync": lambda: np_save(sync=True),
            "save": lambda: opt.save(path / "adam.ckpt"),
            "np.load": lambda: [np.load(file) for file in files],
            "load": lambda: opt.load(path / "adam.ckpt"),
        }
        times = {name: [] for name in work}
        for _ in range(7):
            for name, function in work.items():
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    times = {name: np.array(t) for name, t in times.items()}
    seconds = ", ".join(f"{name} {np.median(t):.2f} s" for name, t in times.items())
    print(f"state of {elements:,} float32: {seconds}")
    for ours, theirs in (("save", "np.save"), ("save", "np.save and fsync"), ("load", "np.load")):
        print(f"    {ours} takes {ratio(times, ours, theirs):.2f} of {theirs}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    part = 10 if parser.parse_args().quick else 1
    for threads in sorted({1, fastadam.get_num_threads()}):
        fastadam.set_num_threads(threads)
        print(in_words(threads))
        rows(10_000_000 // part)
        average(16_777_216)
    checkpoint(100_000_000 // part)


if __name__ == "__main__":
    main()
