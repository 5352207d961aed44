"""Train a NumPy network on handwritten digits: fastadam beside a textbook Adam.

    pip install '.[examples]' && python examples/digits.py

A network with two hidden layers, forward and backward pass written out, learns
the 1,797 digits that scikit-learn ships. Prints what runs fastadam here, test
accuracy and the share of the time that each optimizer took; draws the loss curves
to digits.png.
"""

import argparse
import itertools
import time

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from textbook import TextbookAdam
from threadpoolctl import threadpool_limits

import fastadam

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZES = (64, 256, 128, 10)
EPOCHS = 25
BATCH = 32
LR = 2e-3


def load():
    """Images as float32 rows in [0, 1] and their labels, split for training and testing."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    return train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)


def make_params(rng):
    params = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(SIZES)):
        scale = np.sqrt(2 / fan_in)  # He et al., arXiv:1502.01852
        params[f"W{i}"] = (scale * rng.standard_normal((fan_in, fan_out))).astype(np.float32)
        params[f"b{i}"] = np.zeros(fan_out, np.float32)
    return params


def forward(params, x):
    """Logits, and every layer's input for the backward pass."""
    inputs = [x]
    last = len(SIZES) - 2
    for i in range(last):
        inputs.append(np.maximum(inputs[-1] @ params[f"W{i}"] + params[f"b{i}"], 0))
    return inputs[-1] @ params[f"W{last}"] + params[f"b{last}"], inputs


def loss_and_gradients(params, x, labels):
    """Mean cross-entropy of the softmax, and its gradients."""
    logits, inputs = forward(params, x)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    loss = -log_p[rows, labels].mean()

    delta = np.exp(log_p)
    delta[rows, labels] -= 1
    delta /= len(labels)
    grads = {}
    for i in reversed(range(len(SIZES) - 1)):
        grads[f"W{i}"] = inputs[i].T @ delta
        grads[f"b{i}"] = delta.sum(axis=0)
        delta = (delta @ params[f"W{i}"].T) * (inputs[i] > 0)
    return loss, grads


def train(make_optimizer, data, seed=0):
    """Train from scratch; returns loss curve, test accuracy, all seconds, optimizer's seconds."""
    x_train, x_test, y_train, y_test = data
    rng = np.random.default_rng(seed)
    params = make_params(rng)
    optimizer = make_optimizer(params)
    losses, in_optimizer = [], 0.0
    start = time.perf_counter()
    for _ in range(EPOCHS):
        order = rng.permutation(len(x_train))
        epoch = []
        for rows in np.split(order, range(BATCH, len(order), BATCH)):
            loss, grads = loss_and_gradients(params, x_train[rows], y_train[rows])
            epoch.append(loss)
            before = time.perf_counter()
            optimizer.step(grads)
            in_optimizer += time.perf_counter() - before
        losses.append(float(np.mean(epoch)))
    seconds = time.perf_counter() - start
    accuracy = float((forward(params, x_test)[0].argmax(axis=1) == y_test).mean())
    return losses, accuracy, seconds, in_optimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="digits.png", help="where to draw the loss curves")
    path = parser.parse_args().plot

    config = fastadam.show_config(mode="dicts")
    more = config["instruction_set"] or config["extension_missing"] or "FASTADAM_BACKEND=numpy"
    print(f"fastadam's backend: {config['backend']} ({more})")
    threadpool_limits(1, user_api="blas")  # matrix products this small are faster without
    data = load()
    optimizers = {
        "fastadam.Adam": lambda params: fastadam.Adam(params, lr=LR),
        "textbook NumPy": lambda params: TextbookAdam(params, lr=LR),
    }
    train(optimizers["fastadam.Adam"], data, seed=1)  # the first matrix products are slower
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    print(
        f"{'optimizer':16} {'test accuracy':>13} {'training':>9} {'in optimizer':>13} {'share':>6}"
    )
    for (name, make), style in zip(optimizers.items(), ("-", "--"), strict=True):
        losses, accuracy, seconds, in_optimizer = train(make, data)
        print(
            f"{name:16} {accuracy:13.2%} {seconds:8.2f}s {in_optimizer:12.3f}s "
            f"{in_optimizer / seconds:6.1%}"
        )
        axes.semilogy(range(1, EPOCHS + 1), losses, style, label=f"{name}, {in_optimizer:.2f} s")
    axes.set(
        xlabel="epoch", ylabel="training loss",
        title="Handwritten digits: loss, and time in the optimizer",
    )  # fmt: skip
    axes.legend(title="optimizer, seconds in it")
    figure.savefig(path, dpi=120)
    print(f"loss curves: {path}")


if __name__ == "__main__":
    main()
