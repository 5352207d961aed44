"""A convex problem that Adam fails on and AMSGrad solves.

    pip install '.[examples]' && python examples/amsgrad.py

Reddi, Kale & Kumar, "On the Convergence of Adam and Beyond", arXiv:1904.09237: minimize a
sum of linear functions f_t(x) = g_t x on [-1, 1]. A rare large gradient says left, the many
small ones between say right; on balance -1 is best. Adam forgets the large gradient too soon
and goes to the worst point, 1. AMSGrad divides by the largest second moment so far and
arrives. Prints where both end and their average regret, sum_t (f_t(x_t) - f_t(-1)) / T;
draws both over time to amsgrad.png.
"""

import argparse
import math

import matplotlib
import numpy as np

import fastadam

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def problems():
    """For each, the gradients g_1 ... g_T, betas, and alpha of the step sizes alpha / sqrt(t)."""
    c, few, many = 3.0, np.arange(100_000), np.arange(1_000_000)
    return {
        f"Theorem 1: gradient {c:g}, then twice -1": (
            np.where(few % 3 == 0, c, -1.0), (0.0, 1 / (1 + c**2)), 0.1,
        ),
        "Section 5: gradient 1010, then 100 times -10": (
            np.where(many % 101 == 0, 1010.0, -10.0), (0.9, 0.99), 0.5,
        ),
    }  # fmt: skip


def minimize(gradients, betas, alpha, amsgrad):
    """The iterates x_1 ... x_T from x_1 = 0, each projected to [-1, 1]."""
    x = np.zeros(1)
    optimizer = fastadam.Adam(
        x, lr=lambda finished: alpha / math.sqrt(finished + 1), betas=betas, amsgrad=amsgrad
    )
    iterates = np.empty(len(gradients))
    for t in range(len(gradients)):
        iterates[t] = x[0]
        optimizer.step(gradients[t : t + 1])
        x[0] = min(max(x[0], -1.0), 1.0)
    return iterates


def average_regret(gradients, iterates):
    """Against always choosing -1, for every t."""
    return np.cumsum(gradients * (iterates + 1)) / np.arange(1, len(gradients) + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="amsgrad.png", help="where to draw the iterates")
    path = parser.parse_args().plot

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex="col", layout="constrained")
    for (title, (gradients, betas, alpha)), (above, below) in zip(
        problems().items(), axes.T, strict=True
    ):
        print(f"{title}; {len(gradients):,} steps")
        shown = np.unique(np.geomspace(1, len(gradients), 1500).astype(int)) - 1
        for name, amsgrad, style in (("Adam", False, "-"), ("AMSGrad", True, "--")):
            iterates = minimize(gradients, betas, alpha, amsgrad)
            regret = average_regret(gradients, iterates)
            print(f"    {name:8} x = {iterates[-1]:7.4f}, average regret {regret[-1]:.4f}")
            above.semilogx(shown + 1, iterates[shown], style, label=name)
            below.loglog(shown + 1, regret[shown], style, label=name)
        above.set_title(title)
        below.set_xlabel("t")
    axes[0, 0].set_ylabel("$x_t$ (-1 is best, 1 is worst)")
    axes[1, 0].set_ylabel("average regret")
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)
    print(f"iterates and regret: {path}")


if __name__ == "__main__":
    main()
