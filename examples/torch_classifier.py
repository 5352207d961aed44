"""PyTorch with fastadam: a two-layer classifier, and a convolutional network on real digits.

    pip install '.[torch,examples]' && python examples/torch_classifier.py

The first part is plain PyTorch but for one import. The second trains the same network on the
1,797 digits that scikit-learn ships with torch's Adam, torch's fused Adam and fastadam, and
prints test accuracy and the time that each spent in the optimizer: of three trainings, by
turns, the shortest. PyTorch computes on one thread: layers this small gain nothing from more,
and threads that wait for each other lose minutes where other programs are busy.
"""

import argparse
import time
from functools import partial

import torch
from digits import load
from sklearn.datasets import make_moons
from torch import nn

from fastadam.torch import Adam  # in plain PyTorch: from torch.optim import Adam

EPOCHS = 15
BATCH = 32
LR = 2e-3


def train_two_layers():
    """Tell two moons of points apart; returns the accuracy."""
    torch.manual_seed(3)
    x, y = map(torch.from_numpy, make_moons(1_000, noise=0.1, random_state=0))
    x, y = x.float(), y.float()
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1), nn.Sigmoid())
    optimizer = Adam(model.parameters(), lr=0.01)
    criterion = nn.BCELoss()
    for _ in range(100):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss = criterion(model(x[rows])[:, 0], y[rows])
            loss.backward()
            optimizer.step()
    return ((model(x)[:, 0] > 0.5) == (y > 0.5)).float().mean().item()


def convolutional_network():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train_on_digits(make_optimizer, data):
    """Train from scratch; returns test accuracy, all seconds, and the optimizer's."""
    x_train, x_test, y_train, y_test = map(torch.from_numpy, data)
    x_train, x_test = (x.reshape(-1, 1, 8, 8) for x in (x_train, x_test))
    torch.manual_seed(0)
    model = convolutional_network()
    optimizer = make_optimizer(model.parameters(), lr=LR)
    in_optimizer, start = 0.0, time.perf_counter()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x_train)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x_train[rows]), y_train[rows]).backward()
            before = time.perf_counter()
            optimizer.step()
            in_optimizer += time.perf_counter() - before
    seconds = time.perf_counter() - start
    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == y_test).float().mean().item()
    return accuracy, seconds, in_optimizer


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()

    torch.set_num_threads(1)
    print(f"two layers, fastadam.torch.Adam: {train_two_layers():.1%} of the points are right")
    print()
    data = load()
    optimizers = {
        "torch.optim.Adam": torch.optim.Adam,
        "torch.optim.Adam, fused": partial(torch.optim.Adam, fused=True),
        "fastadam.torch.Adam": Adam,
    }
    train_on_digits(Adam, data)  # the first training is slower: torch sets itself up
    runs = [[train_on_digits(make, data) for make in optimizers.values()] for _ in range(3)]
    print(
        f"{'optimizer':24} {'test accuracy':>13} {'training':>9} {'in optimizer':>13} {'share':>6}"
    )
    for name, results in zip(optimizers, zip(*runs, strict=True), strict=True):
        accuracy, seconds, in_optimizer = map(min, zip(*results, strict=True))
        print(
            f"{name:24} {accuracy:13.2%} {seconds:8.2f}s {in_optimizer:12.3f}s "
            f"{in_optimizer / seconds:6.1%}"
        )


if __name__ == "__main__":
    main()
