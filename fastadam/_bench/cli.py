"""`python -m fastadam bench`: some seconds of measurements on the user's own machine."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastadam
from fastadam._bench import rivals
from fastadam._bench.timing import measure
from fastadam._machine import cpu_name
from fastadam._output import note, say
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
    report: dict[str, Any] = {
        "config": fastadam.show_config(mode="dicts"),
        "cpu": cpu_name(),
        "dtype": dtype,
        "results": [],
        "missing": {},
    }
    try:
        try:
            with _ctrl_c() as stop_if_pressed:
                _measure(report, stop_if_pressed)
        finally:  # after Ctrl-C, what there is
            _show(report, as_json)
        if picture:
            _figure(report).savefig(picture, dpi=120)
            if not as_json:
                say(f"picture: {picture}")
    except KeyboardInterrupt:
        note(f"interrupted: {len(report['results'])} of {len(WORK)} cases were measured")
        return 130  # as shells say it
    return 0


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], None]]:
    """Give a function that stops if Ctrl-C was pressed.

    Extensions that are being imported may swallow KeyboardInterrupt, such as NumPy's of
    numpy.random.
    """
    pressed = []

    def note_it(*_: object) -> None:
        pressed.append(True)
        raise KeyboardInterrupt

    def stop_if_pressed() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it may be ignored, as in the background
        signal.signal(signal.SIGINT, note_it)
    try:
        yield stop_if_pressed
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


def _measure(report: dict[str, Any], stop_if_pressed: Callable[[], None]) -> None:
    """Medians of the times of fastadam, of its streams and of the rivals that are installed."""
    makers: dict[str, rivals.Maker] = {"fastadam": rivals.ours}
    if report["config"]["backend"] == "c":
        makers["streams only"] = rivals.streams
    makers |= {name: rivals.RIVALS[name] for name in SHOWN}
    for i, work in enumerate(WORK, 1):
        note(f"measuring {i} of {len(WORK)}: {work}")
        steps, report["missing"] = rivals.make_steps(makers, *make_arrays(work, report["dtype"]))
        stop_if_pressed()
        rivals.set_threads(report["config"]["threads"])
        times = measure(steps, rounds=9 if work.elements < 10**7 else 5)
        seconds = {name: float(np.median(t)) for name, t in times.items()}
        report["results"].append({**work._asdict(), "seconds": seconds})


def _show(report: dict[str, Any], as_json: bool) -> None:
    if not as_json and report["results"]:
        say("\n".join(_lines(report)))
    elif len(report["results"]) == len(WORK):  # a program takes all or nothing
        say(json.dumps(report, indent=2))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    config = report["config"]
    yield (
        f"fastadam {config['version']}, {config['instruction_set'] or 'NumPy backend'}, "
        f"{in_words(config['threads'])}; {report['cpu']}; {report['dtype']}; "
        "microseconds per step, medians"
    )
    names = list(report["results"][0]["seconds"])
    yield " ".join([f"{'arrays x elements':>18}", *(f"{name:>16}" for name in names)])
    for result in report["results"]:
        work = Work(result["arrays"], result["elements"])
        cells = [f"{result['seconds'][name] * 1e6:,.1f}" for name in names]
        yield " ".join([f"{work!s:>18}", *(f"{cell:>16}" for cell in cells)])
    if "streams only" in names:
        yield (
            "streams only: the memory that a step reads and writes, with next to no arithmetic. "
            "A step that\ntakes as long is as fast as memory lets it be; differences of some "
            "percent are chance."
        )
    for name, reason in report["missing"].items():
        yield f"not measured: {name} ({reason})"


def _figure(report: dict[str, Any]) -> Any:
    """A panel for each case: how many times as long as fastadam the others take."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    results = report["results"]
    names = list(results[0]["seconds"])
    figure = Figure(figsize=(2.2 * len(results) + 1.5, 0.4 * len(names) + 1.6))
    figure.set_layout_engine("constrained")
    ratios = [[r["seconds"][name] / r["seconds"]["fastadam"] for name in names] for r in results]
    widest = max(map(max, ratios))
    in_seconds = EngFormatter("s", places=1)
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, result, row in zip(panels, results, ratios, strict=True):
        axes.axvline(1, color="black", linewidth=0.8, zorder=0)
        for place, (name, times_as_long) in enumerate(zip(names, row, strict=True)):
            color = "black" if name in ("fastadam", "streams only") else "tab:blue"
            axes.plot(times_as_long, place, "o", color=color)
            axes.annotate(
                in_seconds(result["seconds"][name]),
                (times_as_long, place),
                (7, 0),
                textcoords="offset points",
                verticalalignment="center",
                fontsize=9,
                bbox={"color": "white", "pad": 0.5},
                zorder=1,
            )
        axes.set_xscale("log")
        # as wide again as the points, for the figures
        axes.set_xlim(min(map(min, ratios)) / 2, widest * max(widest, 10))
        axes.grid(axis="x", alpha=0.4)
        axes.set_title(str(Work(result["arrays"], result["elements"])), fontsize=10)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(
        f"A step of Adam on so many arrays x elements, {report['dtype']}; "
        f"{report['cpu']}, {in_words(report['config']['threads'])}",
        fontsize=11,
    )
    figure.supxlabel("times as long as fastadam takes, and beside each point the time", fontsize=10)
    return figure
