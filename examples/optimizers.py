"""Train the digits network with every optimizer and every schedule of fastadam.

    pip install '.[examples]' && python examples/optimizers.py

Network and data are those of digits.py. First each optimizer with a constant learning rate
that suits it; then Adam with a learning rate that is too large to stay so, and the schedules
that bring it down. Prints the last epoch's training loss and the test accuracy, means of
three runs; draws the loss curves and the schedules to optimizers.png.
"""

import argparse
import copy
import math
from functools import partial

import matplotlib
import numpy as np
from digits import BATCH, EPOCHS, forward, load, loss_and_gradients, make_params
from threadpoolctl import threadpool_limits

import fastadam
from fastadam import schedules

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEEDS = (0, 1, 2)
PEAK = 2e-2  # the schedules' largest learning rate

OPTIMIZERS = {
    "Adam": (fastadam.Adam, 2e-3),
    "AMSGrad": (partial(fastadam.Adam, amsgrad=True), 2e-3),
    "AdamW": (partial(fastadam.AdamW, weight_decay=0.1), 2e-3),
    "NAdam": (fastadam.NAdam, 2e-3),
    "RAdam": (fastadam.RAdam, 2e-3),
    "Adamax": (fastadam.Adamax, 4e-3),
    "RMSprop": (fastadam.RMSprop, 1e-3),
    "SGD": (fastadam.SGD, 0.05),
    "momentum": (partial(fastadam.SGD, momentum=0.9), 0.05),
    "Nesterov": (partial(fastadam.SGD, momentum=0.9, nesterov=True), 0.05),
}


def make_schedules(steps):
    """Every kind once, from or by way of the peak, for a training of so many steps."""
    half, tenth = steps // 2, steps // 10
    falling = schedules.exponential_decay(PEAK, 0.5, tenth)
    return {
        "constant": schedules.constant(PEAK),
        "linear": schedules.linear(PEAK, 0.0, steps),
        "polynomial": schedules.polynomial(PEAK, 0.0, steps, power=2),
        "exponential_decay": schedules.exponential_decay(PEAK, 0.7, tenth),
        "piecewise_constant": schedules.piecewise_constant(
            PEAK, {half: 0.3, half + half // 2: 0.3}
        ),
        "cosine_decay": schedules.cosine_decay(PEAK, steps),
        "warmup_cosine": schedules.warmup_cosine(0.0, PEAK, tenth, steps),
        "one_cycle": schedules.one_cycle(PEAK, steps),
        "join": schedules.join([schedules.constant(PEAK), falling], [half]),
        "ReduceOnPlateau": schedules.ReduceOnPlateau(PEAK, factor=0.3, patience=1),
    }


def train(make_optimizer, schedule, data, seed):
    """Train from scratch; returns every epoch's learning rate and mean loss, and test accuracy."""
    x_train, x_test, y_train, y_test = data
    rng = np.random.default_rng(seed)
    params = make_params(rng)
    schedule = copy.deepcopy(schedule)  # ReduceOnPlateau remembers what it saw
    optimizer = make_optimizer(params, lr=schedule)
    rates, losses, finished = [], [], 0
    for _ in range(EPOCHS):
        rates.append(schedule(finished))
        order = rng.permutation(len(x_train))
        epoch = []
        for rows in np.split(order, range(BATCH, len(order), BATCH)):
            loss, grads = loss_and_gradients(params, x_train[rows], y_train[rows])
            epoch.append(loss)
            optimizer.step(grads)
        finished += len(epoch)
        losses.append(np.mean(epoch))
        if isinstance(schedule, schedules.ReduceOnPlateau):
            schedule.update(losses[-1])
    accuracy = (forward(params, x_test)[0].argmax(axis=1) == y_test).mean()
    return rates, losses, accuracy


def compare(configurations, data):
    """For each name, means over the seeds of what `train` returns."""
    return {
        name: [
            np.mean(values, axis=0)
            for values in zip(*(train(make, lr, data, seed) for seed in SEEDS), strict=True)
        ]
        for name, (make, lr) in configurations.items()
    }


def print_table(title, results):
    print(f"{title:20} {'training loss':>13} {'test accuracy':>14}")
    for name, (_, losses, accuracy) in results.items():
        print(f"{name:20} {losses[-1]:13.5f} {accuracy:14.2%}")


def draw(by_optimizer, by_schedule, path):
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(18, 5), layout="constrained")
    epochs = np.arange(1, EPOCHS + 1)
    for panel in (left, middle, right):
        panel.set_prop_cycle(
            color=plt.colormaps["tab10"].colors,
            linestyle=["-", "--", "-.", ":"] * 2 + ["-", "--"],
        )
    for panel, results in ((left, by_optimizer), (middle, by_schedule)):
        for name, (_, losses, _) in results.items():
            panel.semilogy(epochs, losses, label=name)
        panel.set(xlabel="epoch", ylabel="training loss")
    for name, (rates, _, _) in by_schedule.items():
        right.plot(epochs, rates, label=name)
    for panel in (left, middle, right):
        highest_first = sorted(panel.get_lines(), key=lambda line: -line.get_ydata()[-1])
        panel.legend(
            handles=highest_first, loc="center left", bbox_to_anchor=(1, 0.5),
            fontsize="small", handlelength=3, title="order of the last epoch",
        )  # fmt: skip
    left.set_title("Optimizers, each at a constant learning rate")
    middle.set_title(f"Adam with schedules of at most {PEAK}")
    right.set_title("These schedules")
    right.set(xlabel="epoch", ylabel="learning rate of the epoch's first step")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="optimizers.png", help="where to draw the curves")
    path = parser.parse_args().plot

    threadpool_limits(1, user_api="blas")  # matrix products this small are faster without
    data = load()
    steps = EPOCHS * math.ceil(len(data[0]) / BATCH)
    by_optimizer = compare(
        {name: (make, schedules.constant(lr)) for name, (make, lr) in OPTIMIZERS.items()}, data
    )
    print_table("optimizer", by_optimizer)
    by_schedule = compare(
        {name: (fastadam.Adam, schedule) for name, schedule in make_schedules(steps).items()}, data
    )
    print()
    print_table("Adam with", by_schedule)
    draw(by_optimizer, by_schedule, path)
    print(f"curves: {path}")


if __name__ == "__main__":
    main()
