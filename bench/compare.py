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
from fastadam._bench.cli import Work, cpu, make_arrays
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
    "numba, parallel",
    *FROM_TORCH,
    "DeepSpeed",
    "scikit-learn",
    "thinc",
)


def set_threads(threads):
    """For fastadam and for every rival that has threads of its own."""
    if "deepspeed" in sys.modules:  # has no setting
        sys.modules["threadpoolctl"].threadpool_limits(threads, user_api="openmp")
    fastadam.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "numba" in sys.modules:
        sys.modules["numba"].set_num_threads(threads)


def installed(work, dtype):
    """Steps of fastadam and of the rivals that are here and not absurdly slow at this size."""
    makers = {"fastadam": rivals.ours, "streams only": rivals.streams, **rivals.RIVALS}
    elements = work.arrays * work.elements
    params, grads = make_arrays(work, dtype)
    steps, missing = {}, {}
    for name, make in makers.items():
        if elements > LIMITS.get(name, np.inf):
            continue
        try:
            steps[name] = make([p.copy() for p in params], grads)
        except ImportError as error:
            missing[name] = str(error)
    return steps, missing


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
        set_threads(threads)
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
        set_threads(threads)
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
        f"| {dtype}, {threads} thread{'s' * (threads > 1)} | fastadam, us | streams only | "
        + " | ".join(names) + " |",
        "|---|" + "---:|" * (len(names) + 2),
    ]  # fmt: skip
    for r in results:
        if r["dtype"] != dtype:
            continue
        row = r["threads"][threads]
        cells = [
            (f"**{x:.2f}**" if x < 1 else f"{x:.2f}" if x < 10 else f"{x:,.0f}")
            if (x := row.get(name, {}).get("times fastadam's")) else ""
            for name in ("streams only", *names)
        ]  # fmt: skip
        label = f"{r['elements']:,}" if r["arrays"] == 1 else f"{r['arrays']:,} x {r['elements']:,}"
        ours = microseconds(row["fastadam"]["seconds"])
        lines.append(f"| {label} | {ours} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_tables(report):
    """All tables to docs/benchmarks.md, the first to the README."""
    intro = report["machine"]
    tables = [
        table(report["results"], dtype, threads)
        for threads in report["thread_counts"]
        for dtype in ("float32", "float64")
    ]
    clipped = ", ".join(
        f"{row['ratio']:.2f} times with {threads} thread{'s' * (threads > 1)}"
        for threads, row in report["clipped"].items()
    )
    last = (
        "Clipping by the norm and AdamW on 16,777,216 float32: torch's `clip_grad_norm_` and "
        f"fused AdamW take {clipped} as long."
    )
    (ROOT / "docs").mkdir(exist_ok=True)
    pictures = [f"![{t} threads](bench-{t}.png)" for t in report["thread_counts"]]
    parts = ["# Benchmarks", "Written by bench/compare.py.", intro, *pictures, *tables, last]
    (ROOT / "docs" / "benchmarks.md").write_text("\n\n".join(parts) + "\n")
    readme = ROOT / "README.md"
    begin, end = "<!-- bench/compare.py writes this -->", "<!-- to here -->"
    text = "\n\n".join([begin, intro, tables[0], last, end])
    old = readme.read_text()
    start, stop = old.index(begin), old.index(end) + len(end)
    readme.write_text(old[:start] + text + old[stop:])


def draw(report):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for threads in report["thread_counts"]:
        results = [r for r in report["results"] if r["arrays"] == 1 and r["dtype"] == "float32"]
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        for name in ("pure Python", *SHOWN, "streams only", "fastadam"):
            points = [
                (r["elements"], r["threads"][threads][name]["seconds"] / r["elements"] * 1e9)
                for r in results
                if name in r["threads"][threads]
            ]
            if points:
                style = {"fastadam": "k-o", "streams only": "k:", "pure Python": "C0:"}.get(
                    name, "-"
                )
                axes.loglog(*zip(*points, strict=True), style, label=name, alpha=0.8)
        axes.set(
            xlabel="elements of one float32 array", ylabel="ns an element",
            title=f"One Adam step, {threads} thread{'s' * (threads > 1)}, {cpu()}",
        )  # fmt: skip
        axes.legend(fontsize=8)
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
        f"{platform.system()}, Python {platform.python_version()}, {', '.join(versions)}. "
        "Figures beside fastadam's time are multiples of it; bold where fastadam loses."
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
