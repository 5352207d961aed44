"""What PyTorch and scikit-learn gain: torch.optim and scikit-learn's own beside fastadam's.

    python bench/adapters.py          # 6 GB of memory, some minutes
    python bench/adapters.py --quick

Interleaved in one process; each figure is a median.
"""

import argparse
import warnings

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

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
    print("float32 parameters x elements, threads | fastadam, us | torch fused / fastadam")
    for threads in (1, 2):
        set_threads(threads)
        for count, elements in sizes:
            ours = optimizer(fastadam.torch.Adam, count, elements)
            theirs = optimizer(torch.optim.Adam, count, elements, fused=True)
            times = measure({"ours": ours.step, "theirs": theirs.step})
            print(
                f"{count:,} x {elements:,}, {threads} | {np.median(times['ours']) * 1e6:,.1f} | "
                f"{ratio(times, 'theirs', 'ours'):.2f}"
            )


def family():
    set_threads(1)
    print("100 x 1,000 float32, 1 thread | fastadam, us | torch's default / fastadam")
    for name in fastadam.torch.__all__:
        ours, theirs = (
            optimizer(getattr(module, name), 100, 1_000) for module in (fastadam.torch, torch.optim)
        )
        times = measure({"ours": ours.step, "theirs": theirs.step})
        print(
            f"{name} | {np.median(times['ours']) * 1e6:.1f} | {ratio(times, 'theirs', 'ours'):.1f}"
        )


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
        f"1,000 rows of {rows:,} x 64, and 20 x 1,000: {np.median(times['fastadam']) * 1e6:,.0f} us, "
        f"SparseAdam and fused Adam {ratio(times, 'torch', 'fastadam'):.1f} times as long"
    )


def fits(networks):
    """Whole fits of scikit-learn's MLPClassifier on the digits, a few epochs each."""
    set_threads(2)
    x, y = load_digits(return_X_y=True)
    print("MLPClassifier on digits: hidden layers, dtype, batch | fit, s | its own / fastadam")
    for layers, dtype, batch in networks:
        data = (x / 16).astype(dtype)

        def fit(data=data, layers=layers, batch=batch):
            model = MLPClassifier(layers, batch_size=batch, max_iter=5, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(data, y)

        def patched(fit=fit):
            with patched_sklearn():
                fit()

        times = measure({"ours": patched, "theirs": fit}, rounds=7, seconds=0.0)
        print(
            f"{layers}, {np.dtype(dtype)}, {batch} | {np.median(times['ours']):.2f} | "
            f"{ratio(times, 'theirs', 'ours'):.2f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of memory and time")
    quick = parser.parse_args().quick
    sizes = [(1, 10), (100, 10), (100, 1_000), (1_000, 10)]
    sizes += [(1, n) for n in (1_000, 65_536, 262_144, 1_048_576, 4_194_304)]
    dense(sizes if quick else [*sizes, (1, 16_777_216), (1, 67_108_864)])
    family()
    embedding(100_000 if quick else 1_000_000)
    networks = [((100,), np.float64, 200), ((100,), np.float32, 200), ((100,), np.float32, 10)]
    if not quick:
        networks += [
            ((1024,) * 3, np.float64, 200),
            ((1024,) * 3, np.float32, 200),
            ((1024,) * 3, np.float32, 32),
        ]
    fits(networks)


if __name__ == "__main__":
    main()
