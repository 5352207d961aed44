"""What PyTorch and scikit-learn gain: torch.optim and scikit-learn's own beside fastadam's.

    python bench/adapters.py          # 6 GB of memory, some minutes
    python bench/adapters.py --quick

Interleaved in one process; each figure is a median.
"""

import argparse
import warnings
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

import fastadam
import fastadam.torch
from fastadam._bench.timing import measure, ratio
from fastadam.sklearn import patched_sklearn


def set_threads(threads):
    fastadam.set_num_threads(threads)
    torch.set_num_threads(threads)


def optimizer(cls, count, elements, dtype=torch.float32, **options):
    params = [torch.nn.Parameter(torch.ones(elements, dtype=dtype)) for _ in range(count)]
    for param in params:
        param.grad = torch.full_like(param, 0.1)
    return cls(params, **options)


def dense(sizes):
    print(
        "| one step of float32 parameters: torch's fused Adam / fastadam | 1 thread | 2 threads |"
    )
    print("|---|---:|---:|")
    for count, elements in sizes:
        cells = []
        for threads in (1, 2):
            set_threads(threads)
            ours = optimizer(fastadam.torch.Adam, count, elements)
            theirs = optimizer(torch.optim.Adam, count, elements, fused=True)
            times = measure({"ours": ours.step, "theirs": theirs.step})
            cells.append(f"{ratio(times, 'theirs', 'ours'):.2f} ({microseconds(times)} us)")
        print(f"| {count:,} x {elements:,} |", " | ".join(cells), "|")


def microseconds(times):
    return f"{np.median(times['ours']) * 1e6:,.1f}"


def family():
    set_threads(1)
    print("| 100 x 1,000 float32, 1 thread: torch's default / fastadam | |")
    print("|---|---:|")
    for name in fastadam.torch.__all__:
        if not hasattr(torch.optim, name):
            continue
        ours, theirs = (
            optimizer(getattr(module, name), 100, 1_000) for module in (fastadam.torch, torch.optim)
        )
        times = measure({"ours": ours.step, "theirs": theirs.step})
        print(f"| {name} | {ratio(times, 'theirs', 'ours'):.1f} ({microseconds(times)} us) |")


def embedding(rows):
    """A table of which a step touches 1,000 rows, and 20 dense parameters."""
    set_threads(1)
    steps = {}
    for name in ("fastadam", "torch"):
        table = torch.nn.Embedding(rows, 64, sparse=True)
        table(torch.randint(0, rows, (1_000,))).sum().backward()
        if name == "fastadam":
            rest = optimizer(fastadam.torch.Adam, 20, 1_000)
            rest.add_param_group({"params": table.weight})
            steps[name] = rest.step
        else:
            rest = optimizer(torch.optim.Adam, 20, 1_000, fused=True)
            sparse = torch.optim.SparseAdam([table.weight])
            steps[name] = lambda rest=rest, sparse=sparse: (rest.step(), sparse.step())
    times = measure(steps)
    print(
        f"1,000 rows of {rows:,} x 64, and 20 x 1,000: "
        f"{np.median(times['fastadam']) * 1e6:,.0f} us, SparseAdam and fused Adam "
        f"{ratio(times, 'torch', 'fastadam'):.1f} times as long"
    )


def fit(x, y, layers, batch):
    model = MLPClassifier(layers, batch_size=batch, max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)


def patched_fit(*args):
    with patched_sklearn():
        fit(*args)


def fits(networks):
    set_threads(2)
    threadpool_limits(1, user_api="blas")  # two threads would wait for each other
    x, y = load_digits(return_X_y=True)
    print(
        "| a whole fit of MLPClassifier on digits, BLAS on one thread: its own Adam / fastadam "
        "| float64 | float32 |"
    )
    print("|---|---:|---:|")
    for layers, batch in networks:
        cells = []
        for dtype in (np.float64, np.float32):
            args = (x / 16).astype(dtype), y, layers, batch
            times = measure(
                {"ours": partial(patched_fit, *args), "theirs": partial(fit, *args)}, 9, 0.0
            )
            cells.append(f"{ratio(times, 'theirs', 'ours'):.2f} ({np.median(times['ours']):.2f} s)")
        print(f"| hidden layers {layers}, batches of {batch} |", " | ".join(cells), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of memory and time")
    quick = parser.parse_args().quick
    sizes = [(1, 10), (100, 10), (100, 1_000), (1_000, 10)]
    sizes += [(1, n) for n in (1_000, 65_536, 262_144, 1_048_576, 4_194_304)]
    dense(sizes if quick else [*sizes, (1, 16_777_216), (1, 67_108_864)])
    family()
    embedding(100_000 if quick else 1_000_000)
    networks = [((100,), 200), ((100,), 10)]
    if not quick:
        networks += [((1024,) * 3, 200), ((1024,) * 3, 32)]
    fits(networks)


if __name__ == "__main__":
    main()
