"""Adam's three weaknesses, and what other members of the family do about each.

    pip install '.[examples]' && python examples/weaknesses.py

1. It may fail to converge. On a line from -1 to 1, a rare large gradient says left and the many
   small ones between say right; on balance -1 is best (a stochastic problem after Reddi, Kale &
   Kumar, arXiv:1904.09237, section 3, and Taniguchi et al., arXiv:2411.02853, section 5.1). Adam,
   AMSGrad and ADOPT, as the paper has it and clipped as it is by default, for several beta2.
2. Its learning rate wants tuning, and so does its schedule. The network of digits.py is trained
   with AdamW, whose learning rate is constant or falls along a cosine, over the whole training, a
   quarter of it, or four times as long; and with AdamWScheduleFree, evaluated at its average.
3. It keeps two more arrays as large as the parameters. The same network with every member of the
   family: the accuracy that each reaches, its bytes of state, and how long a step of it takes.

Every configuration gets the same grid of learning rates, five seeds each, and is otherwise as it is
by default. Its rate is the one with the least mean loss on images held out from training; what is
told of it is its accuracy on others, the mean and the standard deviation over the seeds. "Good"
rates are those whose accuracy on the held-out images is at most one percent point below the best.
Trainings this short, of a network this small, favour members that get going soon: they say little
of large ones.
Prints tables, and draws weaknesses-1.png to weaknesses-3.png. `--quick` is a try with much less of
all, to see that it runs; its figures mean nothing.
"""

import argparse
import itertools
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from digits import BATCH, forward, load, loss_and_gradients, make_params
from threadpoolctl import threadpool_limits

import fastadam
from fastadam import schedules

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Size(NamedTuple):
    """How much of all is done; the full run takes a minute or two on two cores."""

    steps: int = 100_000  # of the first problem
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    epochs: int = 10
    seeds: int = 5
    numbers: int = 2**23  # in the array whose steps are timed


QUICK = Size(steps=2_000, rates=(1e-3, 1e-2), epochs=2, seeds=2, numbers=2**16)

RARENESS = (10, 20)  # a gradient k with a chance of 1/k, else -1: 1/k in the mean
BETA2 = (0.1, 0.5, 0.9, 0.99, 0.999)
SHOWN_BETA2 = 0.9
CONVERGING = {
    "Adam": (fastadam.Adam, {}),
    "AMSGrad": (fastadam.Adam, {"amsgrad": True}),
    "ADOPT, clip=None": (fastadam.ADOPT, {"clip": None}),
    "ADOPT": (fastadam.ADOPT, {}),
}

MEMBERS = {
    "Adam": (fastadam.Adam, {}),
    "Adam, bfloat16 state": (fastadam.Adam, {"state_dtype": "bfloat16"}),
    "Adam, 8-bit state": (fastadam.Adam, {"state_dtype": "int8"}),
    "AMSGrad": (fastadam.Adam, {"amsgrad": True}),
    "AdamW": (fastadam.AdamW, {}),
    "NAdam": (fastadam.NAdam, {}),
    "RAdam": (fastadam.RAdam, {}),
    "Adamax": (fastadam.Adamax, {}),
    "RMSprop": (fastadam.RMSprop, {}),
    "SGD": (fastadam.SGD, {}),
    "SGD, momentum": (fastadam.SGD, {"momentum": 0.9}),
    "ADOPT": (fastadam.ADOPT, {}),
    "AdamWScheduleFree": (fastadam.AdamWScheduleFree, {}),
    "Lion": (fastadam.Lion, {}),
    "AdEMAMix": (fastadam.AdEMAMix, {}),
}
#: The length of a cosine beside the training's; None: the rate is constant.
LENGTHS = {
    "constant": None,
    "cosine, right length": 1,
    "cosine, a quarter of it": 1 / 4,
    "cosine, 4 times as long": 4,
}
CONSTANT = "constant"


def walk(name, k, size):
    """Where x was, a thousand times on the way: an array of times x BETA2 x seeds."""
    make, options = CONVERGING[name]
    x = np.zeros((len(BETA2), size.seeds))
    optimizer = make(
        [{"params": row, "betas": (0.9, beta2)} for row, beta2 in zip(x, BETA2, strict=True)],
        lr=lambda finished: 0.01 / math.sqrt(1 + 0.01 * finished),
        **options,
    )
    large = [np.random.default_rng(seed).random(size.steps) < 1 / k for seed in range(size.seeds)]
    seen = np.empty((1_000, *x.shape))
    for t, grad in enumerate(np.where(large, float(k), -1.0).T.copy()):
        optimizer.step([grad] * len(BETA2))
        np.clip(x, -1, 1, out=x)
        seen[t * len(seen) // size.steps] = x
    return seen


@cache
def split():
    """The digits, for training, for choosing a learning rate, and for testing."""
    threadpool_limits(1, user_api="blas")  # matrix products this small are faster without
    images, test_images, labels, test_labels = load()
    n = len(images) * 3 // 4
    return (images[:n], labels[:n]), (images[n:], labels[n:]), (test_images, test_labels)


def measured(params):
    """Loss and accuracy on the held-out images, and accuracy on the test's."""
    _, held_out, test = split()
    loss, _ = loss_and_gradients(params, *held_out)
    accuracies = (
        (forward(params, images)[0].argmax(axis=1) == labels).mean()
        for images, labels in (held_out, test)
    )
    return loss, *accuracies


def train(name, schedule, lr, seed, size):
    """Train from scratch; what `measured` returns after every epoch."""
    (images, labels), _, _ = split()
    make, options = MEMBERS[name]
    length = LENGTHS[schedule]
    if length is not None:
        steps = size.epochs * math.ceil(len(images) / BATCH)
        lr = schedules.cosine_decay(lr, round(length * steps))
    rng = np.random.default_rng(seed)
    params = make_params(rng)
    optimizer = make(params, lr=lr, **options)
    averages = make is fastadam.AdamWScheduleFree
    after = []
    with np.errstate(all="ignore"):  # with too large a learning rate, numbers overflow
        for _ in range(size.epochs):
            order = rng.permutation(len(images))
            for rows in np.split(order, range(BATCH, len(order), BATCH)):
                _, grads = loss_and_gradients(params, images[rows], labels[rows])
                optimizer.step(grads)
            with optimizer.use_averaged_params() if averages else nullcontext():
                after.append(measured(params))
    return np.array(after)


class Trained(NamedTuple):
    """What came of a configuration: (rates, seeds, epochs) of losses, and of percentages."""

    held_out_loss: np.ndarray
    held_out: np.ndarray
    test: np.ndarray

    def best(self):
        """The number of the rate with the least loss on the held-out images."""
        losses = self.held_out_loss[:, :, -1].mean(axis=1)
        return int(np.nan_to_num(losses, nan=np.inf).argmin())

    def good(self):
        """With how many rates the accuracy on them is at most one point below the best."""
        means = self.held_out[:, :, -1].mean(axis=1)
        return int((means >= means.max() - 1).sum())


def train_all(pool, size):
    """By member and schedule, what came of it."""
    kinds = [*((name, CONSTANT) for name in MEMBERS), *(("AdamW", kind) for kind in LENGTHS)]
    kinds = list(dict.fromkeys(kinds))
    runs = list(itertools.product(kinds, size.rates, range(size.seeds)))
    columns = zip(*((*kind, lr, seed, size) for kind, lr, seed in runs), strict=True)
    curves = np.array(list(pool.map(train, *columns, chunksize=5)))
    curves = curves.reshape(len(kinds), len(size.rates), size.seeds, size.epochs, 3)
    loss, *accuracies = np.moveaxis(curves, -1, 0)
    percent = (100 * accuracy for accuracy in accuracies)
    return dict(zip(kinds, map(Trained, loss, *percent), strict=True))


def costs(size):
    """Of each member, bytes of state a parameter and nanoseconds of a step for one."""
    param, grad = np.ones(size.numbers, np.float32), np.full(size.numbers, 1e-3, np.float32)
    optimizers = {name: make(param, **options) for name, (make, options) in MEMBERS.items()}
    times = {name: [] for name in MEMBERS}
    for _ in range(9):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step(grad)
            times[name].append(time.perf_counter() - start)
    return {
        name: (optimizer.state_bytes / size.numbers, 1e9 * np.median(times[name]) / size.numbers)
        for name, optimizer in optimizers.items()
    }


def print_walks(walks, size):
    for k in RARENESS:
        print(f"Gradient {k} with a chance of 1/{k}, else -1: x, where -1 is best and 1 is worst")
        for end, seen in ((size.steps // 10, 99), (size.steps, -1)):
            print(f"  after {end:7,} steps  " + "".join(f"{f'beta2 = {b:g}':>16}" for b in BETA2))
            for name in CONVERGING:
                x = walks[name, k][seen]
                cells = zip(x.mean(axis=1), x.std(axis=1, ddof=1), strict=True)
                print(f"    {name:18}" + "".join(f"{m:9.2f} +- {s:.2f}" for m, s in cells))
    print()


def print_trained(title, rows, size, costs=None):
    more = f"{'bytes of state':>15} {'ns a number':>12}" if costs else ""
    print(f"{title:32} {'test accuracy':>16} {'rate':>8} {'good rates':>11} {more}")
    for name, trained in rows.items():
        final = trained.test[trained.best(), :, -1]
        bytes_and_time = "{:15.2f} {:12.2f}".format(*costs[name]) if costs else ""
        print(
            f"{name:32} {final.mean():7.2f} +- {final.std(ddof=1):4.2f}% "
            f"{size.rates[trained.best()]:8g} {trained.good():6} of {len(size.rates)} "
            f"{bytes_and_time}"
        )
    print()


def print_by_rate(title, rows, size):
    print(f"{title:25}" + "".join(f"{f'rate {rate:g}':>15}" for rate in size.rates))
    for name, trained in rows.items():
        final = trained.test[:, :, -1]
        cells = zip(final.mean(axis=1), final.std(axis=1, ddof=1), strict=True)
        print(f"{name:25}" + "".join(f"{m:8.2f} +- {s:4.1f}" for m, s in cells))
    print()


def band(panel, x, values, color, style, label):
    """A line of the means over the last axis, and their spread around it."""
    mean, spread = values.mean(axis=-1), values.std(axis=-1, ddof=1)
    panel.plot(x, mean, style, color=color, label=label)
    panel.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)


COLORS = plt.colormaps["tab10"].colors
STYLES = ("o-", "s--", "^-.", "v:", "D-")


def draw_walks(walks, size, path):
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    at = np.arange(1, 1_001) * size.steps / 1_000
    for (left, right), k in zip(axes, RARENESS, strict=True):
        for name, color, style in zip(CONVERGING, COLORS, STYLES, strict=False):
            seen = walks[name, k]
            band(left, at, seen[:, BETA2.index(SHOWN_BETA2)], color, style[1:], name)
            mean, spread = seen[-1].mean(axis=1), seen[-1].std(axis=1, ddof=1)
            shift = 0.08 * (list(CONVERGING).index(name) - 1.5)
            places = np.arange(len(BETA2)) + shift
            right.errorbar(places, mean, spread, fmt=style, color=color, capsize=3, label=name)
        problem = f"gradient {k} with a chance of 1/{k}, else -1"
        left.set(title=f"{problem}; beta2 = {SHOWN_BETA2}", ylabel="x (-1 is best, 1 is worst)")
        right.set(title=f"{problem}; x at the end")
        right.set_xticks(range(len(BETA2)), [f"{beta2:g}" for beta2 in BETA2])
        for panel in (left, right):
            panel.set_ylim(-1.1, 1.1)
            panel.axhline(-1, color="gray", linewidth=0.8)
    axes[1, 0].set_xlabel("steps")
    axes[1, 1].set_xlabel("beta2")
    axes[0, 0].legend(loc="center right")
    figure.suptitle("Where Adam does not converge: mean and spread over the seeds")
    figure.savefig(path, dpi=120)


def draw_tuning(rows, size, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    epochs = np.arange(1, size.epochs + 1)
    for (name, trained), color, style in zip(rows.items(), COLORS, STYLES, strict=False):
        band(left, size.rates, trained.test[:, :, -1], color, style, name)
        rate = f"{name}: {size.rates[trained.best()]:g}"
        band(right, epochs, 100 - trained.test[trained.best()].T, color, style, rate)
    left.set(
        xscale="log", xlabel="learning rate, or the cosine's first", ylabel="test accuracy, %",
        ylim=(70, 100), title=f"After {size.epochs} epochs, by learning rate",
    )  # fmt: skip
    right.set(
        yscale="log", xlabel="epoch", ylabel="test error, %",
        title="On the way, each with the rate chosen for it",
    )  # fmt: skip
    ticks = [2, 3, 5, 10, 20, 50]
    right.set_yticks(ticks, [str(tick) for tick in ticks])
    right.set_yticks([], minor=True)
    left.legend(loc="lower center")
    right.legend(title="learning rate")
    figure.suptitle("Digits: mean and spread over the seeds")
    figure.savefig(path, dpi=120)


def draw_costs(rows, costs, path):
    figure, panels = plt.subplots(1, 3, figsize=(13, 6), sharey=True, layout="constrained")
    names = sorted(rows, key=lambda name: (costs[name][0], name))
    places = np.arange(len(names))
    final = [rows[name].test[rows[name].best(), :, -1] for name in names]
    mean, spread = np.mean(final, axis=1), np.std(final, axis=1, ddof=1)
    panels[0].errorbar(mean, places, xerr=spread, fmt="o", color=COLORS[0], capsize=3)
    panels[0].set_xlabel("test accuracy, %: mean and spread over the seeds")
    for panel, column, label in (
        (panels[1], 0, "bytes of state a parameter"),
        (panels[2], 1, "ns of a step a parameter, here and now"),
    ):
        values = [costs[name][column] for name in names]
        bars = panel.barh(places, values, color=COLORS[column + 1], height=0.6)
        panel.bar_label(bars, fmt="%.2f", padding=3)
        panel.set(xlabel=label, xlim=(0, 1.2 * max(values)))
    panels[0].set_yticks(places, names)
    for panel in panels:
        panel.grid(axis="x", alpha=0.4)
    figure.suptitle("Digits: what each member reaches at the rate chosen for it, and what it costs")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="weaknesses.png", help="where to draw, with a number")
    parser.add_argument("--quick", action="store_true", help="much less of all, as a try")
    arguments = parser.parse_args()
    plot = Path(arguments.plot)
    paths = [plot.with_stem(f"{plot.stem}-{number}") for number in (1, 2, 3)]
    size = QUICK if arguments.quick else Size()

    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        problems = list(itertools.product(CONVERGING, RARENESS))
        done = pool.map(walk, *zip(*problems, strict=True), itertools.repeat(size))
        walks = dict(zip(problems, done, strict=True))
        print_walks(walks, size)
        draw_walks(walks, size, paths[0])
        trained = train_all(pool, size)

    tuned = {kind: trained["AdamW", kind] for kind in LENGTHS}
    tuned["AdamWScheduleFree"] = trained["AdamWScheduleFree", CONSTANT]
    print_by_rate("test accuracy, %", tuned, size)
    print_trained("AdamW's schedule, or none", tuned, size)
    draw_tuning(tuned, size, paths[1])

    members = {name: trained[name, CONSTANT] for name in MEMBERS}
    cost = costs(size)
    print_trained("member, constant rate", members, size, cost)
    draw_costs(members, cost, paths[2])
    print("pictures:", *paths)


if __name__ == "__main__":
    main()
