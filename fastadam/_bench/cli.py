"""`python -m fastadam bench`: some seconds of measurements on the user's own machine."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastadam
from fastadam._bench import rivals
from fastadam._bench.timing import measure
from fastadam._types import Array

SHOWN = ("textbook NumPy", "torch fused", "numba parallel", "scikit-learn", "thinc")


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


def cpu() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def in_words(threads: int) -> str:
    """A number of threads with its noun."""
    return f"{threads} thread{'s' * (threads > 1)}"


def check_picture(path: str) -> None:
    """Raise ValueError if a picture cannot be drawn there: before measuring, not after."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ValueError(f"--plot needs matplotlib ({error}): pip install matplotlib") from error
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(path).suffix[1:].lower() not in formats:
        raise ValueError(f"--plot {path}: the name must end in one of .{', .'.join(formats)}")
    folder = Path(path).parent
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--plot {path}: there is no folder {folder} that can be written to")


def run(picture: str | None, dtype: str = "float32", as_json: bool = False) -> int:
    """Measure; print the figures, and draw them if a path for the picture is given."""
    report = _measure(dtype)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    if picture:
        _draw(report, picture)
        if not as_json:
            print(f"picture: {picture}")
    return 0


def _measure(dtype: str) -> dict[str, Any]:
    """Medians of the times of fastadam, of its streams and of the rivals that are installed."""
    config = fastadam.show_config(mode="dicts")
    makers: dict[str, rivals.Maker] = {"fastadam": rivals.ours}
    if config["backend"] == "c":
        makers["streams only"] = rivals.streams
    makers |= {name: rivals.RIVALS[name] for name in SHOWN}
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for i, work in enumerate(WORK):
        _progress(i, len(WORK), f"{work}")
        steps, missing = rivals.make_steps(makers, *make_arrays(work, dtype))
        rivals.set_threads(config["threads"])
        times = measure(steps, rounds=9 if work.elements < 10**7 else 5)
        seconds = {name: float(np.median(t)) for name, t in times.items()}
        results.append({**work._asdict(), "seconds": seconds})
    _progress(len(WORK), len(WORK), "")
    return {"config": config, "cpu": cpu(), "dtype": dtype, "results": results, "missing": missing}


def _progress(done: int, of: int, what: str) -> None:
    if sys.stderr.isatty():
        end = "\r" if done < of else "\r" + " " * 60 + "\r"
        bar = "#" * (30 * done // of)
        print(f"[{bar:30}] {what:20}", end=end, file=sys.stderr, flush=True)


def _print(report: dict[str, Any]) -> None:
    config = report["config"]
    print(
        f"fastadam {config['version']}, {config['instruction_set'] or 'NumPy backend'}, "
        f"{in_words(config['threads'])}; {report['cpu']}; {report['dtype']}; "
        "microseconds per step, medians"
    )
    names = list(report["results"][0]["seconds"])
    print(f"{'arrays x elements':>18}", *(f"{name:>16}" for name in names))
    for result in report["results"]:
        work = Work(result["arrays"], result["elements"])
        cells = [f"{result['seconds'][name] * 1e6:,.1f}" for name in names]
        print(f"{work!s:>18}", *(f"{cell:>16}" for cell in cells))
    if "streams only" in names:
        print(
            "streams only: the memory that a step reads and writes, with next to no arithmetic. "
            "A step that\ntakes as long is as fast as memory lets it be; differences of some "
            "percent are chance."
        )
    for name, reason in report["missing"].items():
        print(f"not measured: {name} ({reason})")


def _draw(report: dict[str, Any], path: str) -> None:
    from matplotlib.figure import Figure

    results = report["results"]
    names = list(results[0]["seconds"])
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    markers = iter("sD^vP")
    for k, name in enumerate(names):
        places = np.arange(len(results)) + (k - (len(names) - 1) / 2) * 0.1
        heights = [r["seconds"][name] / (r["arrays"] * r["elements"]) * 1e9 for r in results]
        style = {"fastadam": "ko", "streams only": "k_"}.get(name) or next(markers)
        axes.plot(places, heights, style, linestyle="none", label=name)
    axes.set_yscale("log")
    axes.grid(axis="y", alpha=0.4)
    works = [str(Work(r["arrays"], r["elements"])) for r in results]
    axes.set_xticks(range(len(works)), works)
    axes.set(
        xlabel=f"arrays x elements, {report['dtype']}",
        ylabel="nanoseconds per element",
        title=f"An Adam step, {report['cpu']}, {in_words(report['config']['threads'])}",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
