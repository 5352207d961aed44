"""The pictures of docs/guide/schedules.md: each schedule of fastadam.schedules, drawn.

    pip install '.[examples]' && python docs/draw_schedules.py

Writes docs/guide/schedules.png and docs/guide/plateau.png.
"""

from pathlib import Path

import matplotlib
import numpy as np

from fastadam import schedules

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent / "guide"
STEPS = 100
CALLS = [
    "constant(1.0)",
    "linear(0.0, 1.0, 50)",
    "polynomial(1.0, 0.0, 100, power=2)",
    "exponential_decay(1.0, 0.5, 20)",
    "exponential_decay(1.0, 0.5, 20,\n staircase=True, end=0.1)",
    "piecewise_constant(1.0, {30: 0.5, 80: 0.2})",
    "cosine_decay(1.0, 100)",
    "warmup_cosine(0.0, 1.0, 20, 100)",
    'one_cycle(1.0, 100, anneal_strategy="cos")',
    'one_cycle(1.0, 100, anneal_strategy="linear")',
    "join([constant(1.0),\n linear(1.0, 0.0, 30)], [70])",
    "join([linear(0.0, 1.0, 10),\n exponential_decay(1.0, 0.5, 30)], [10])",
]
#: What the metric of the second picture is after each epoch: it falls, and ceases to.
METRICS = [1.0, 0.7, 0.55, 0.5, 0.5, 0.51, 0.5, 0.45, 0.4, 0.38, 0.38, 0.39, 0.38, 0.38, 0.39]


def draw_curves():
    names = {name: getattr(schedules, name) for name in schedules.__all__}
    finished = np.arange(STEPS + 21)
    figure, panels = plt.subplots(4, 3, figsize=(11, 9.5), sharex=True, sharey=True)
    for panel, call in zip(panels.flat, CALLS, strict=True):
        panel.plot(finished, eval(call, names)(finished), drawstyle="steps-post", linewidth=2)
        panel.set_title(call, size=9)
        panel.grid(alpha=0.3)
    panels[0, 0].set(ylim=(-0.05, 1.1), xticks=range(0, STEPS + 21, 20))
    figure.supxlabel("finished steps")
    figure.supylabel("learning rate")
    figure.tight_layout()
    save(figure, "schedules.png")


def draw_plateau():
    plateau = schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1)
    rates = [plateau.lr]
    for metric in METRICS:
        plateau.update(metric)
        rates.append(plateau.lr)
    figure, (upper, lower) = plt.subplots(2, figsize=(7, 4.5), sharex=True, layout="constrained")
    upper.plot(range(1, len(METRICS) + 1), METRICS, "o-", linewidth=2)
    upper.set(ylabel="metric", ylim=(0, 1.05))
    lower.step(range(len(rates)), rates, where="post", linewidth=2)
    lower.set(ylabel="learning rate", xlabel="updates", ylim=(0, 0.11))
    for panel in (upper, lower):
        panel.grid(alpha=0.3)
    save(figure, "plateau.png")


def save(figure, name):
    figure.savefig(FOLDER / name, dpi=110, metadata={"Software": None})  # no version of matplotlib
    print(f"picture: {FOLDER / name}")


if __name__ == "__main__":
    draw_curves()
    draw_plateau()
