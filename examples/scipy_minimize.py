"""Adam as a method of scipy.optimize.minimize, beside SciPy's L-BFGS-B.

    pip install '.[scipy,examples]' && python examples/scipy_minimize.py

First Rosenbrock's function, then softmax regression on the digits that scikit-learn ships:
once with the loss of all images, once with that of 32 random ones at each evaluation. L-BFGS-B
needs far fewer evaluations of a smooth function without noise; with noise it soon takes an
unlucky step for the end, while Adam goes on. The curves show the loss of all images at the
points that the callback got. Draws all to scipy_minimize.png.
"""

import argparse

import matplotlib
import numpy as np
from digits import load
from scipy.optimize import minimize, rosen, rosen_der

import fastadam.scipy
from fastadam import schedules

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

START = [-1.5, 2.0]
DECAY = 1e-4  # of the regression's weights, so that there is one best point
BATCH = 32
METHODS = {"L-BFGS-B": "L-BFGS-B", "Adam": fastadam.scipy.adam}


def softmax_regression(x, labels):
    """The mean cross-entropy of all rows, or of those that are asked for, and its gradient."""
    x = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)

    def loss(flat, rows=slice(None)):
        weights = flat.reshape(x.shape[1], -1)
        logits = x[rows] @ weights
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        n = len(logits)
        value = -log_p[np.arange(n), labels[rows]].mean() + DECAY / 2 * (flat @ flat)
        delta = np.exp(log_p)
        delta[np.arange(n), labels[rows]] -= 1
        return value, (x[rows].T @ delta).ravel() / n + DECAY * flat

    return loss, x.shape[1] * (labels.max() + 1)


def rosenbrock():
    """Where each method went, and its result."""
    paths, results = {}, {}
    options = {"L-BFGS-B": {}, "Adam": {"lr": 0.02, "maxiter": 10_000}}
    for name, method in METHODS.items():
        path = [START]
        results[name] = minimize(
            rosen, START, jac=rosen_der, method=method, callback=path.append,
            options=options[name],
        )  # fmt: skip
        paths[name] = np.array(path)
    return paths, results


def regression(loss, size, n_images, noisy):
    """The loss of all images, after so many images were looked at, of each method's points."""
    curves, results = {}, {}
    epochs = 60
    steps = epochs * n_images // BATCH if noisy else epochs
    lr = schedules.cosine_decay(0.02 if noisy else 0.3, steps)
    options = {"L-BFGS-B": {"maxiter": epochs}, "Adam": {"lr": lr, "maxiter": steps}}
    for name, method in METHODS.items():
        rng = np.random.default_rng(0)
        seen, curve = [0], []

        def evaluate(flat, rng=rng, seen=seen):
            rows = rng.integers(0, n_images, BATCH) if noisy else slice(None)
            seen[0] += BATCH if noisy else n_images
            return loss(flat, rows)

        def note(flat, seen=seen, curve=curve):
            curve.append((seen[0] / n_images, loss(flat)[0]))

        results[name] = minimize(
            evaluate, np.zeros(size), jac=True, method=method, callback=note,
            options=options[name],
        )  # fmt: skip
        curves[name] = np.array(curve or [(seen[0] / n_images, loss(np.zeros(size))[0])])
    return curves, results


def draw_rosenbrock(axes, paths):
    x, y = np.meshgrid(np.linspace(-2, 1.4, 400), np.linspace(-0.9, 2.6, 400))
    axes.contour(x, y, rosen(np.stack([x, y])), np.logspace(0, 3, 7), colors="0.8")
    for (name, path), style in zip(paths.items(), ("o-", "-"), strict=True):
        axes.plot(*path.T, style, markersize=3, label=f"{name}, {len(path) - 1:,} iterations")
    axes.plot(1, 1, "k*", markersize=10)
    axes.set(title="Rosenbrock's function", xlabel="$x_0$", ylabel="$x_1$")
    axes.legend(loc="lower center")


def draw_curves(axes, curves, title):
    for (name, curve), style in zip(curves.items(), ("o-", "-"), strict=True):
        axes.loglog(*curve.T, style, markersize=3, label=name)
    axes.set(title=title, xlabel="passes over the images", ylabel="loss over all images")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.legend()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="scipy_minimize.png", help="where to draw the curves")
    path = parser.parse_args().plot

    figure, panels = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    paths, results = rosenbrock()
    for name, result in results.items():
        print(f"Rosenbrock, {name}: {result.fun:.1e} after {result.nfev:,} evaluations")
    draw_rosenbrock(panels[0], paths)

    x, _, labels, _ = load()
    loss, size = softmax_regression(x, labels)
    for noisy, panel in zip((False, True), panels[1:], strict=True):
        what = f"{BATCH} random images each time" if noisy else "all images"
        curves, results = regression(loss, size, len(x), noisy)
        for name, result in results.items():
            seen, value = curves[name][-1]
            print(
                f"digits, {what}, {name}: loss {value:.4f} after {seen:.1f} passes; "
                f"{result.message}"
            )
        draw_curves(panel, curves, f"Softmax regression, {what}")
    figure.savefig(path, dpi=120)
    print(f"curves: {path}")


if __name__ == "__main__":
    main()
