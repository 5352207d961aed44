"""`python -m fastadam bench`: a minute of measurements on the user's own machine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastadam
from fastadam._bench import rivals
from fastadam._bench.timing import Times, measure, ratio
from fastadam._types import Array

SHOWN = ("textbook NumPy", "torch fused", "numba, parallel", "scikit-learn", "thinc")


class Work(NamedTuple):
    arrays: int
    elements: int

    def __str__(self) -> str:
        return f"{self.arrays:,} x {self.elements:,}"


WORK = (
    Work(1, 10),
    Work(100, 1_000),
    Work(1, 65_536),
    Work(1, 1_048_576),
    Work(1, 16_777_216),
)


def make_arrays(work: Work, dtype: str) -> tuple[list[Array], list[Array]]:
    rng = np.random.default_rng(0)
    grads = [
        rng.standard_normal(work.elements, np.float32).astype(dtype) for _ in range(work.arrays)
    ]
    return [np.ones_like(g) for g in grads], grads


def compare(work: Work, dtype: str, names: tuple[str, ...], rounds: int) -> Times:
    """Times of fastadam, of its streams and of the rivals that are installed."""
    makers: dict[str, Callable[[list[Array], list[Array]], rivals.Step]] = {"fastadam": rivals.ours}
    if fastadam.show_config(mode="dicts")["backend"] == "c":
        makers["streams only"] = rivals.streams
    makers |= {name: rivals.RIVALS[name] for name in names}
    functions = {}
    for name, make in makers.items():
        try:
            functions[name] = make(*make_arrays(work, dtype))
        except ImportError:
            continue
    return measure(functions, rounds)


def cpu() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def run(plot: str | None) -> int:
    if plot:
        import matplotlib  # noqa: F401  # before a minute has passed

    config = fastadam.show_config(mode="dicts")
    print(
        f"fastadam {config['version']}, {config['instruction_set'] or 'NumPy backend'}, "
        f"{config['threads']} threads; {cpu()}; float32; microseconds a step, medians"
    )
    results = []
    for i, work in enumerate(WORK):
        _progress(i, len(WORK), f"{work}")
        results.append(compare(work, "float32", SHOWN, rounds=9 if work.elements < 10**7 else 5))
    _progress(len(WORK), len(WORK), "")

    names = [name for name in ("fastadam", *SHOWN) if name in results[0]]
    print(f"{'arrays':>18}", *(f"{name:>16}" for name in names), f"{'streaming limit':>16}")
    for work, times in zip(WORK, results, strict=True):
        cells = [f"{np.median(times[name]) * 1e6:,.1f}" for name in names]
        share = f"{ratio(times, 'streams only', 'fastadam'):.0%}" if "streams only" in times else ""
        print(f"{work!s:>18}", *(f"{cell:>16}" for cell in cells), f"{share:>16}")
    print("streaming limit: the share reached of the speed at which the same memory can be moved")
    missing = [name for name in SHOWN if name not in names]
    if missing:
        print("not installed:", ", ".join(missing))
    if plot:
        _draw(plot, results, names)
        print(f"picture: {plot}")
    return 0


def _progress(done: int, of: int, what: str) -> None:
    if sys.stderr.isatty():
        end = "\r" if done < of else "\r" + " " * 60 + "\r"
        bar = "#" * (30 * done // of)
        print(f"[{bar:30}] {what:20}", end=end, file=sys.stderr, flush=True)


def _draw(path: str, results: list[Times], names: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        heights = [
            np.median(times[name]) / (w.arrays * w.elements) * 1e9
            for w, times in zip(WORK, results, strict=True)
        ]
        axes.bar(
            np.arange(len(WORK)) + (k - (len(names) - 1) / 2) * width, heights, width, label=name
        )
    axes.set_yscale("log")
    axes.set_xticks(range(len(WORK)), [str(work) for work in WORK])
    axes.set(
        xlabel="arrays x elements, float32",
        ylabel="ns an element",
        title=f"An Adam step, {cpu()}, {fastadam.get_num_threads()} threads",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
