"""fastadam against everything else that does an Adam step, in one process and one run.

    python bench/compare.py            # up to 134,217,728 elements: an hour, 20 GB of memory
    python bench/compare.py --quick    # up to 16,777,216 elements: some minutes
    python bench/compare.py --rewrite  # no measurement: pages and pictures of what was measured

Writes docs/benchmarks/CPU.json, CPU.md and CPU-*.png, where CPU is that of this machine with its
instruction set, and the short table of the README, which is of the CPU where rivals come nearest.

Every rival steps the same arrays; rounds are interleaved. The time of a step is the
median over rounds, the spread half its interquartile range, both in the JSON.
"""

import argparse
import json
import platform
import re
import sys
from pathlib import Path

import numpy as np

import fastadam
from fastadam._bench import rivals
from fastadam._bench.cli import Work, in_words, make_arrays
from fastadam._bench.timing import measure
from fastadam._machine import cpu_name

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "benchmarks"
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
    "Python and NumPy": (
        "pure Python", "textbook NumPy", "in-place NumPy", "fastadam on NumPy", "scikit-learn",
        "thinc",
    ),
    "compiled: numba, PyTorch, DeepSpeed": ("numba parallel", *FROM_TORCH, "DeepSpeed"),
}  # fmt: skip
HOW_TO_READ = (
    "Behind fastadam's time in microseconds, each column says how many times as long another way "
    "takes; a rival that is faster than fastadam is bold. [Benchmarks](../benchmarks.md) says what "
    "the rows and columns are."
)
#: The README's rows, what it calls them, and its columns.
SHORT = {
    Work(1, 1_000): "1,000 numbers",
    Work(100, 1_000): "100 arrays of 1,000: a small network",
    Work(1, 262_144): "262,144 numbers, which fit into the cache",
    Work(1, 1_048_576): "1,048,576 numbers",
    Work(1, 16_777_216): "16,777,216 numbers, limited by memory",
}
README_CPU = "amd-epyc-avx2"
SHORT_NAMES = ("textbook NumPy", "numba parallel", "torch loop", "torch fused")


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
    rows = {label(Work(r["arrays"], r["elements"])): r for r in results if r["dtype"] == dtype}
    return rows_of(f"{dtype}, {in_words(int(threads))}", rows, threads, ("streams only", *names))


def rows_of(title, rows, threads, names):
    lines = [
        f"| {title} | fastadam, us | " + " | ".join(names) + " |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for name, result in rows.items():
        row = result["threads"][threads]
        cells = [multiple(row.get(name), bold=name in SHOWN) for name in names]
        ours = microseconds(row["fastadam"]["seconds"])
        lines.append(f"| {name} | {ours} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def label(work):
    if work.arrays == 1:
        return f"{work.elements:,}"
    return f"{work.arrays:,} x {work.elements:,}"


def multiple(figures, bold):
    """How many times fastadam's time a rival takes, bold if less than once."""
    if figures is None:
        return ""
    x = figures["times fastadam's"]
    text = f"{x:.2f}" if x < 10 else f"{x:,.0f}"
    return f"**{text}**" if bold and x < 1 else text


def write_page(report, name):
    """All tables of one CPU."""
    clipped = " and ".join(
        f"{row['ratio']:.2f} times as long with {in_words(int(threads))}"
        for threads, row in report["clipped"].items()
    )
    parts = [
        f"# {report['cpu']}, {report['instruction_set']}",
        f"{report['machine']} Written by bench/compare.py.",
        HOW_TO_READ,
    ]
    for threads in report["thread_counts"]:
        parts += [
            f"## {in_words(threads).capitalize()}",
            f"![Nanoseconds per element by size, {in_words(threads)}]({name}-{threads}.png)",
            "Arrays of float32:",
            table(report["results"], "float32", str(threads)),
            "Arrays of float64, which are twice the memory:",
            table(report["results"], "float64", str(threads)),
        ]
    parts += [
        "## With clipping",
        "Clipping by the norm and AdamW on 16,777,216 float32: torch's `clip_grad_norm_` and "
        f"fused AdamW take {clipped}.",
    ]
    (FOLDER / f"{name}.md").write_text("\n\n".join(parts) + "\n")


def write_readme(report):
    """The short table, with one thread."""
    found = {
        Work(result["arrays"], result["elements"]): result
        for result in report["results"]
        if result["dtype"] == "float32"
    }
    rows = {shown: found[work] for work, shown in SHORT.items()}
    short = rows_of("one step of Adam, float32, 1 thread", rows, "1", SHORT_NAMES)
    begin, end = "<!-- bench/compare.py writes this -->", "<!-- to here -->"
    readme = ROOT / "README.md"
    old = readme.read_text()
    start, stop = old.index(begin), old.index(end)
    readme.write_text(f"{old[:start]}{begin}\n\n{report['machine']}\n\n{short}\n\n{old[stop:]}")


def draw(report, name):
    """For each thread count a picture of two panels, so that lines can be told apart."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [r for r in report["results"] if r["arrays"] == 1 and r["dtype"] == "float32"]
    for threads in report["thread_counts"]:
        figure, panels = plt.subplots(
            1, 2, figsize=(12, 5), sharex=True, sharey=True, layout="constrained"
        )
        of_threads = [(r, r["threads"][str(threads)]) for r in results]
        for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
            markers = iter("sD^vPX")
            for rival in ("fastadam", "streams only", *names):
                points = [
                    (r["elements"], row[rival]["seconds"] / r["elements"] * 1e9)
                    for r, row in of_threads
                    if rival in row
                ]
                if points:
                    style = {"fastadam": "k-o", "streams only": "k:"}.get(rival)
                    axes.loglog(
                        *zip(*points, strict=True), style or f"{next(markers)}-", label=rival,
                        linewidth=2 if style else 0.8, markersize=5, zorder=3 if style else 2,
                    )  # fmt: skip
            axes.set(title=title, xlabel="elements of one float32 array")
            axes.grid(alpha=0.3)
            axes.legend()
        panels[0].set_ylabel("nanoseconds per element")
        figure.suptitle(
            f"One Adam step, {in_words(threads)}, {report['cpu']}, {report['instruction_set']}"
        )
        figure.savefig(FOLDER / f"{name}-{threads}.png", dpi=110)
        plt.close(figure)


def describe(thread_counts):
    config = fastadam.show_config(mode="dicts")
    versions = []
    for name in ("numpy", "torch", "numba", "deepspeed", "sklearn", "thinc"):
        if name in sys.modules:
            versions.append(f"{name} {sys.modules[name].__version__}")
    return (
        f"{cpu_name()}, {max(thread_counts)} cores, {config['instruction_set']}; "
        f"{platform.system()}, Python {platform.python_version()}, {', '.join(versions)}."
    )


def run(quick):
    thread_counts = sorted({1, fastadam.get_num_threads()})
    results = []
    for dtype in ("float32", "float64"):
        for work in (*ONE, *MANY):
            if work.arrays * work.elements > (20_000_000 if quick else np.inf):
                continue
            print(f"{dtype} {work} ...", file=sys.stderr, flush=True)
            results.append(run_work(work, dtype, thread_counts, quick))
    return {
        "cpu": cpu_name(),
        "instruction_set": fastadam.show_config(mode="dicts")["instruction_set"],
        "machine": describe(thread_counts),
        "thread_counts": thread_counts,
        "results": results,
        "clipped": run_clipped(thread_counts),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller work and fewer rounds")
    parser.add_argument("--rewrite", action="store_true", help="measure nothing")
    options = parser.parse_args()

    FOLDER.mkdir(exist_ok=True)
    if not options.rewrite:
        report = run(options.quick)
        name = re.sub("[^a-z0-9]+", "-", f"{report['cpu']} {report['instruction_set']}".lower())
        text = json.dumps(report, indent=1) + "\n"
        (FOLDER / f"{name}.json").write_text(text)
    for file in FOLDER.glob("*.json"):
        report = json.loads(file.read_text())
        write_page(report, file.stem)
        draw(report, file.stem)
        if file.stem == README_CPU:
            write_readme(report)


if __name__ == "__main__":
    main()
