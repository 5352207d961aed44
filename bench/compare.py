"""fastadam against everything else that does an Adam step, in one process and one run.

    python bench/compare.py            # up to 134,217,728 elements: an hour, 20 GB of memory
    python bench/compare.py --quick    # up to 16,777,216 elements: some minutes

Writes docs/bench.json, docs/benchmarks.md, the README's table and docs/bench-*.png.

Every rival steps the same arrays; rounds are interleaved. The time of a step is the
median over rounds, the spread half its interquartile range, both in the JSON.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np

import fastadam
from fastadam._bench import rivals
from fastadam._bench.cli import Work, cpu, in_words, make_arrays
from fastadam._bench.timing import measure

ROOT = Path(__file__).parent.parent
ONE = tuple(
    Work(1, n) for n in (10, 1_000, 65_536, 262_144, 1_048_576, 16_777_216, 67_108_864, 134_217_728)
)
MANY = tuple(Work(a, n) for n in (10, 1_000, 100_000) for a in (10, 100, 1_000))
FROM_TORCH = ("torch loop", "torch foreach", "torch fused")
#: Elements beyond which a rival takes minutes, or its temporaries all memory.
LIMITS = {"pure Python": 100_000} | dict.fromkeys(
    ("textbook NumPy", "in-place NumPy", "fastadam on NumPy", "torch loop", "torch foreach",
     "scikit-learn", "thinc"),
    20_000_000,
)  # fmt: skip
SHOWN = (
    "textbook NumPy",
    "in-place NumPy",
    "fastadam on NumPy",
    "numba parallel",
    *FROM_TORCH,
    "DeepSpeed",
    "scikit-learn",
    "thinc",
)
#: What the pictures' panels show beside fastadam and its streams.
PANELS = {
    "Python, NumPy, scikit-learn, thinc": (
        "pure Python", "textbook NumPy", "in-place NumPy", "fastadam on NumPy", "scikit-learn",
        "thinc",
    ),
    "numba, PyTorch, DeepSpeed": ("numba parallel", *FROM_TORCH, "DeepSpeed"),
}  # fmt: skip
HOW_TO_READ = (
    "Behind fastadam's time in microseconds, each column says how many times as long another way "
    "takes; a rival that is faster than fastadam is bold."
)
DETAILS = """\
A row is one Adam step, of one array of so many elements or of a list of arrays (arrays x
elements). "Streams only" is no rival: it reads and writes the memory of a step with one addition
for each number written, which is as fast as memory allows; some percent more or less are chance.
"Textbook" is algorithm 1 of the paper, one NumPy expression per line; "in-place" writes every
operation into an array made before. A cell is empty where a rival does not take the dtype, or
would take minutes or more memory than there is."""


def installed(work, dtype):
    """Steps of fastadam and of the rivals that are here and not absurdly slow at this size."""
    makers = {"fastadam": rivals.ours, "streams only": rivals.streams, **rivals.RIVALS}
    elements = work.arrays * work.elements
    swift = {name: make for name, make in makers.items() if elements <= LIMITS.get(name, np.inf)}
    return rivals.make_steps(swift, *make_arrays(work, dtype))


def figures(times):
    quartiles = np.percentile(times, [25, 50, 75])
    return {"seconds": quartiles[1], "spread": (quartiles[2] - quartiles[0]) / 2}


def run_work(work, dtype, thread_counts, quick):
    """{threads: {name: figures}}, and each rival's median ratio to fastadam."""
    steps, missing = installed(work, dtype)
    large = work.arrays * work.elements > 10_000_000
    rounds = (3 if large else 5) if quick else (7 if large else 15)
    result = {}
    for threads in thread_counts:
        rivals.set_threads(threads)
        times = measure(steps, rounds)
        result[threads] = {
            name: {**figures(t), "times fastadam's": float(np.median(t / times["fastadam"]))}
            for name, t in times.items()
        }
    return {"arrays": work.arrays, "elements": work.elements, "dtype": dtype,
            "threads": result, "missing": missing}  # fmt: skip


def run_clipped(thread_counts):
    work = Work(1, 16_777_216)
    makers = {"fastadam": rivals.ours_clipped, "torch": rivals.torch_clipped}
    steps = {name: make(*make_arrays(work, "float32")) for name, make in makers.items()}
    result = {}
    for threads in thread_counts:
        rivals.set_threads(threads)
        times = measure(steps, 7)
        ratio = float(np.median(times["torch"] / times["fastadam"]))
        result[threads] = {**{n: figures(t) for n, t in times.items()}, "ratio": ratio}
    return result


def microseconds(seconds):
    return f"{seconds * 1e6:,.0f}" if seconds > 1e-4 else f"{seconds * 1e6:,.2f}"


def table(results, dtype, threads):
    """A Markdown table: our time, then how many times it each rival takes."""
    names = [n for n in SHOWN if any(n in r["threads"][threads] for r in results)]
    lines = [
        f"| {dtype}, {in_words(threads)} | fastadam, us | streams only | "
        + " | ".join(names) + " |",
        "|---|" + "---:|" * (len(names) + 2),
    ]  # fmt: skip
    for r in results:
        if r["dtype"] != dtype:
            continue
        row = r["threads"][threads]
        cells = [multiple(row.get(name), bold=name in SHOWN) for name in ("streams only", *names)]
        label = f"{r['elements']:,}" if r["arrays"] == 1 else f"{r['arrays']:,} x {r['elements']:,}"
        ours = microseconds(row["fastadam"]["seconds"])
        lines.append(f"| {label} | {ours} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def multiple(figures, bold):
    """How many times fastadam's time a rival takes, bold if less than once."""
    if figures is None:
        return ""
    x = figures["times fastadam's"]
    text = f"{x:.2f}" if x < 10 else f"{x:,.0f}"
    return f"**{text}**" if bold and x < 1 else text


def write_tables(report):
    """All tables to docs/benchmarks.md, the first to the README."""
    intro = f"{report['machine']} {HOW_TO_READ}"
    clipped = " and ".join(
        f"{row['ratio']:.2f} times as long with {in_words(threads)}"
        for threads, row in report["clipped"].items()
    )
    last = (
        "Clipping by the norm and AdamW on 16,777,216 float32: torch's `clip_grad_norm_` and "
        f"fused AdamW take {clipped}."
    )
    parts = ["# Benchmarks", "Written by bench/compare.py.", intro, DETAILS]
    for threads in report["thread_counts"]:
        parts += [
            f"## {in_words(threads).capitalize()}",
            f"![Nanoseconds per element by size, {in_words(threads)}](bench-{threads}.png)",
            "Arrays of float32:",
            table(report["results"], "float32", threads),
            "Arrays of float64, which are twice the memory:",
            table(report["results"], "float64", threads),
        ]
    parts += ["## With clipping", last]
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "benchmarks.md").write_text("\n\n".join(parts) + "\n")
    readme = ROOT / "README.md"
    begin, end = "<!-- bench/compare.py writes this -->", "<!-- to here -->"
    first = table(report["results"], "float32", report["thread_counts"][0])
    text = "\n\n".join([begin, intro, first, last, end])
    old = readme.read_text()
    start, stop = old.index(begin), old.index(end) + len(end)
    readme.write_text(old[:start] + text + old[stop:])


def draw(report):
    """For each thread count a picture of two panels, so that lines can be told apart."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [r for r in report["results"] if r["arrays"] == 1 and r["dtype"] == "float32"]
    for threads in report["thread_counts"]:
        figure, panels = plt.subplots(
            1, 2, figsize=(12, 5), sharex=True, sharey=True, layout="constrained"
        )
        for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
            markers = iter("sD^vPX")
            for name in ("fastadam", "streams only", *names):
                points = [
                    (r["elements"], r["threads"][threads][name]["seconds"] / r["elements"] * 1e9)
                    for r in results
                    if name in r["threads"][threads]
                ]
                if points:
                    style = {"fastadam": "k-o", "streams only": "k:"}.get(name)
                    axes.loglog(
                        *zip(*points, strict=True), style or f"{next(markers)}-", label=name,
                        linewidth=2 if style else 0.8, markersize=5, zorder=3 if style else 2,
                    )  # fmt: skip
            axes.set(title=title, xlabel="elements of one float32 array")
            axes.grid(alpha=0.3)
            axes.legend()
        panels[0].set_ylabel("nanoseconds per element")
        figure.suptitle(f"One Adam step, {in_words(threads)}, {report['cpu']}")
        figure.savefig(ROOT / "docs" / f"bench-{threads}.png", dpi=110)
        plt.close(figure)


def describe(thread_counts):
    config = fastadam.show_config(mode="dicts")
    versions = []
    for name in ("numpy", "torch", "numba", "deepspeed", "sklearn", "thinc"):
        if name in sys.modules:
            versions.append(f"{name} {sys.modules[name].__version__}")
    return (
        f"{cpu()}, {max(thread_counts)} cores, {config['instruction_set']}; "
        f"{platform.system()}, Python {platform.python_version()}, {', '.join(versions)}."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller work and fewer rounds")
    quick = parser.parse_args().quick

    thread_counts = sorted({1, fastadam.get_num_threads()})
    results = []
    for dtype in ("float32", "float64"):
        for work in (*ONE, *MANY):
            if work.arrays * work.elements > (20_000_000 if quick else np.inf):
                continue
            print(f"{dtype} {work} ...", file=sys.stderr, flush=True)
            results.append(run_work(work, dtype, thread_counts, quick))
    report = {
        "cpu": cpu(),
        "machine": describe(thread_counts),
        "thread_counts": thread_counts,
        "results": results,
        "clipped": run_clipped(thread_counts),
    }
    write_tables(report)
    draw(report)
    (ROOT / "docs" / "bench.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
