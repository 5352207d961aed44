"""What a step costs on N machines: a model with measured constants, checked here, drawn for many.

    pip install '.[mpi,examples]' mpich
    python bench/scaling.py --measure    # 1, 2 and 4 ranks on this machine: some minutes
    python bench/scaling.py              # tables and pictures once more, of what was measured
    python bench/scaling.py --link-bandwidth 50e9 --memory-bandwidth 400e9 --to FOLDER

Writes docs/scaling.json, the tables in docs/scaling.md and docs/scaling-*.png; with --to, pictures
for other machines into that folder, while the tables are only printed. docs/scaling.md says what
they mean, scaling_model.py has the model, and scaling_ranks.py is what is measured.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from scaling_model import (
    CACHED,
    FEW_BUCKET,
    KIB,
    LARGEST,
    MIB,
    MOVED,
    PER_RANK,
    PLAIN,
    SENT,
    SIZES,
    SPREAD,
    WAYS,
    ZERO,
    Machine,
    cost,
)

import fastadam
from fastadam._machine import cpu_name

DOCS = Path(__file__).parents[1] / "docs"
PASSES = 3
MANY = [2**k for k in range(3, 11)]
SHOWN = (8, 64, 1024)
BUCKETS = [64 * KIB << k for k in range(15)]


def measured():
    """{ranks: {name: seconds}}: of runs that take turns the least, which others disturbed least."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    mpiexec = shutil.which("mpiexec", path=path)
    if mpiexec is None:
        sys.exit("mpiexec is not installed: pip install mpich")
    program = Path(__file__).with_name("scaling_ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = {"1": [], "2": [], "4": []}
    for turn in range(PASSES):
        for ranks, found in runs.items():
            print(f"{turn + 1} of {PASSES}, ranks: {ranks}", file=sys.stderr, flush=True)
            command = [mpiexec, "-n", ranks, sys.executable, program]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            found.append(json.loads(done.stdout))
    return {
        ranks: {name: min(run[name] for run in found) for name in found[0]}
        for ranks, found in runs.items()
    }


def constants(runs):
    """The machine that one and two ranks show; four ranks are for the check alone."""
    one, two = runs["1"], runs["2"]
    latency = (two["reduce 0"] + two["gather 0"]) / 2
    copying = one[f"reduce {4 * MIB}"] / (4 * MIB)
    link = 2 * MIB / (two[f"gather {4 * MIB}"] - latency)
    handling = (one["in 64"] - one["in 1"]) / 63
    hidden = two["gather"] + two["beside it"] - two["both"]

    def adding(size):
        received = size / 2
        return max((two[f"reduce {size}"] - latency) / received - 1 / link - copying, 0.0)

    return Machine(
        cores=os.cpu_count(),
        memory_bandwidth=2 * MOVED * LARGEST / two["step"],
        thread_bandwidth=MOVED * LARGEST / one["step"],
        arithmetic=one["step in the cache"] / CACHED,
        copying=copying,
        adding=tuple((size / 2, adding(size)) for size in SENT),
        call=max(one["least"] - handling, 0.0),
        handling=handling,
        latency=latency,
        link_bandwidth=link,
        overlap=min(max(hidden / min(two["gather"], two["beside it"]), 0.0), 1.0),
    )


def like(machine, options, **other):
    """A machine like the measured one, with as many cores as its memory wants."""
    asked = {**vars(options), **other}
    memory = asked["memory_bandwidth"] or machine.memory_bandwidth
    cores = math.ceil(machine.cores * memory / machine.memory_bandwidth)
    ranks = asked["ranks_per_machine"]
    return replace(
        machine,
        cores=cores,
        ranks=ranks,
        threads=max(1, cores // ranks),
        memory_bandwidth=memory,
        link_bandwidth=asked["link_bandwidth"] / ranks,
        latency=asked["latency"],
        overlap=asked["overlap"],
    )


def well(machine, way, ranks, numbers):
    """The cost with the buckets that each way has by default."""
    by_default = max(FEW_BUCKET, PER_RANK * ranks)
    return cost(machine, way, ranks, numbers, by_default if way == ZERO else FEW_BUCKET)


def ratio(machine, ranks, numbers):
    """How many times as long as all-reduce ZeRO-1 takes."""
    times = [well(machine, way, ranks, numbers).total for way in (ZERO, PLAIN)]
    return times[0] / times[1]


def in_bytes(size):
    units = ((1 << 30, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
    return next(f"{size / unit:.0f} {name}" for unit, name in units if size >= unit)


def rows(*lines):
    """A Markdown table, the first line being its head."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|---|" + "---:|" * (len(lines[0]) - 1), *body])


def described(machine):
    return (
        f"link of {machine.link_bandwidth / 1.25e8:.3g} Gbit/s for each rank, latency "
        f"{1e6 * machine.latency:.2g} us, memory {machine.memory_bandwidth / 1e9:.0f} GB/s for "
        f"{'the rank' if machine.ranks == 1 else f'{machine.ranks} ranks'} of a machine, "
        f"overlap {machine.overlap:.2g}"
    )


def of_constants(machine):
    added = (f"{1e9 * s:.2f} ({in_bytes(received)})" for received, s in machine.adding)
    return rows(
        ("constant", "here"),
        ("memory bandwidth of all ranks together, GB/s", f"{machine.memory_bandwidth / 1e9:.1f}"),
        ("that of one thread alone, GB/s", f"{machine.thread_bandwidth / 1e9:.1f}"),
        ("step of a number that is in the cache, ns", f"{1e9 * machine.arithmetic:.2f}"),
        ("copy of a byte, ns", f"{1e9 * machine.copying:.3f}"),
        ("addition of a byte, where so many are received at a time, ns", ", ".join(added)),
        ("any step, us", f"{1e6 * machine.call:.0f}"),
        ("any bucket, us", f"{1e6 * machine.handling:.0f}"),
        ("any message, us", f"{1e6 * machine.latency:.1f}"),
        ("link: sent while as much is received, GB/s", f"{machine.link_bandwidth / 1e9:.1f}"),
        ("overlap", f"{machine.overlap:.2f}"),
    )


def of_check(machine, runs):
    lines = [("ranks, numbers", *(f"{way}, {in_bytes(size)}" for way, size in WAYS))]
    for ranks, found in runs.items():
        here = replace(machine, ranks=int(ranks))
        for numbers in SIZES:
            cells = []
            for way, size in WAYS:
                told = cost(here, way, here.ranks, numbers, size).total
                true = found[f"{way} {size} {numbers}"]
                cells.append(f"{1e3 * told:.2f}, {1e3 * true:.2f} ({true / told:.2f})")
            lines.append((f"{ranks}, {numbers:,}", *cells))
    return rows(*lines)


def of_bytes(machine):
    lines = [("ranks", *(f"{way}: sent, moved, kept" for way in (ZERO, PLAIN, SPREAD)))]
    for ranks in (1, *SHOWN):
        costs = [well(machine, way, ranks, 10**9) for way in (ZERO, PLAIN, SPREAD)]
        cells = [", ".join(f"{x / 1e9:.2f}" for x in (c.sent, c.moved, c.memory)) for c in costs]
        lines.append((f"{ranks:,}", *cells))
    return rows(*lines)


def of_links(machine, options):
    """Where communication takes over, and what ZeRO-1 gains, for links and memories."""
    heads = [f"{way}: communication is half at" for way in (ZERO, PLAIN)]
    heads += [f"ZeRO-1 / all-reduce, {ranks:,} ranks" for ranks in SHOWN]
    lines = [("link, memory", *heads)]
    for gbit in (10, 100, 400):
        for memory in (machine.memory_bandwidth, 400e9):
            other = like(machine, options, link_bandwidth=gbit / 8e-9, memory_bandwidth=memory)
            cells = []
            for way in (ZERO, PLAIN):
                costs = {n: well(other, way, n, 10**9) for n in range(2, 1025)}
                half = [n for n, c in costs.items() if c.communication >= c.arithmetic]
                cells.append(f"{half[0]} ranks" if half else "no number of ranks")
            for ranks in SHOWN:
                slower = [n for n in np.geomspace(1e3, 1e9, 121) if ratio(other, ranks, n) >= 1]
                least = float(f"{max(slower, default=0):.0e}")
                since = f"from {least:,.0f}" if least < 1e9 else "never below"
                cells.append(f"{ratio(other, ranks, 10**9):.2f} ({since})")
            lines.append((f"{gbit} Gbit/s, {memory / 1e9:.0f} GB/s", *cells))
    return rows(*lines)


def of_buckets(machine):
    """What the size of buckets and overlap make of a step of 10^9 numbers."""
    heads = ("all-reduce, ms", "ZeRO-1: 4 MiB, ms", "by default, ms", "best size, ms")
    lines = [("ranks, overlap", *heads)]
    for ranks in SHOWN:
        plain = well(machine, PLAIN, ranks, 10**9).total
        for overlap in (0, 1):
            other = replace(machine, overlap=overlap)
            times = {size: cost(other, ZERO, ranks, 10**9, size).total for size in BUCKETS}
            best = min(times, key=times.get)
            usual = well(other, ZERO, ranks, 10**9).total
            shown = [f"{1e3 * t:,.0f}" for t in (plain, times[FEW_BUCKET], usual, times[best])]
            lines.append((f"{ranks:,}, {overlap}", *shown[:3], f"{in_bytes(best)}, {shown[3]}"))
    return rows(*lines)


def tables(report, machine, options):
    """{name: Markdown}, of what was measured, and of the machine that is drawn."""
    here, runs = Machine(**report["constants"]), report["runs"]
    return {
        "machine": report["machine"],
        "constants": of_constants(here),
        "check": of_check(here, runs),
        "drawn": f"Drawn: {described(machine)}.",
        "bytes": of_bytes(machine),
        "links": of_links(machine, options),
        "buckets": of_buckets(machine),
    }


def written(text, found):
    """The text with these tables between their marks."""
    for name, table in found.items():
        begin, end = f"<!-- bench/scaling.py writes {name} -->", "<!-- to here -->"
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        assert after, f"no place for {name}"
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


def draw(machine, folder):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = {ZERO: "tab:blue", PLAIN: "tab:orange", SPREAD: "tab:green"}
    styles = {ZERO: "o-", PLAIN: "s--", SPREAD: "^:"}

    def panels(title):
        figure, pair = plt.subplots(1, 2, figsize=(12, 5.2), layout="constrained")
        figure.suptitle(title, fontsize=10)
        return figure, *pair

    def lines(axes, way, values, **options):
        axes.loglog(MANY, values, styles[way], color=colors[way], markersize=4, **options)

    def finish(figure, name, *by_ranks):
        for axes in by_ranks:
            axes.set_xscale("log", base=2)
            axes.set_xticks(MANY, [f"{n:,}" for n in MANY])
        for axes in figure.axes:
            axes.grid(alpha=0.3)
            axes.legend(fontsize=9)
        figure.savefig(folder / f"scaling-{name}.png", dpi=110)
        plt.close(figure)

    figure, left, right = panels(f"Time of a step\n{described(machine)}")
    places = np.arange(len(MANY))
    for way, move in ((ZERO, -0.2), (PLAIN, 0.2)):
        costs = [well(machine, way, n, 10**10) for n in MANY]
        step, sent = [c.arithmetic for c in costs], [c.communication for c in costs]
        bar = {"x": places + move, "width": 0.38, "color": colors[way]}
        left.bar(height=step, label=f"{way}: arithmetic", **bar)
        left.bar(height=sent, bottom=step, alpha=0.45, label=f"{way}: communication", **bar)
    left.set_xticks(places, [f"{n:,}" for n in MANY])
    left.set_ylim(top=1.35 * left.get_ylim()[1])
    left.set(title="10^10 parameters, without overlap", xlabel="ranks", ylabel="seconds")
    for way in (PLAIN, ZERO, SPREAD):
        for power in (9, 10, 11, 12):
            times = [well(machine, way, n, 10**power).total for n in MANY]
            lines(right, way, times, label=way if power == 9 else None)
            if way == PLAIN:
                place = (MANY[0], 1.25 * times[0])
                right.annotate(f"10^{power}", place, fontsize=9)
    right.set(title="10^9 to 10^12 parameters", xlabel="ranks", ylabel="seconds")
    finish(figure, "time", right)

    figure, left, right = panels(f"Buckets and overlap; when ZeRO-1 pays\n{described(machine)}")
    for ranks, color in zip(SHOWN, ("tab:blue", "tab:orange", "tab:red"), strict=True):
        for overlap, style in ((0, "-"), (1, "--")):
            other = replace(machine, overlap=overlap)
            times = [cost(other, ZERO, ranks, 10**9, size).total for size in BUCKETS]
            label = f"{ranks:,} ranks, overlap {overlap}"
            left.loglog(BUCKETS, times, style, color=color, label=label)
        numbers = np.geomspace(1e4, 1e12, 200)
        times = [ratio(machine, ranks, n) for n in numbers]
        right.semilogx(numbers, times, color=color, label=f"{ranks:,} ranks")
    left.axvline(FEW_BUCKET, color="gray", linewidth=1, linestyle=":", label="4 MiB")
    left.set_xscale("log", base=2)
    left.set_xticks(BUCKETS[::2], [in_bytes(size) for size in BUCKETS[::2]], rotation=30)
    left.set(title="ZeRO-1, 10^9 parameters", xlabel="bucket_bytes", ylabel="seconds")
    right.axhline(1, color="gray", linewidth=1)
    right.set(title="With buckets by default", xlabel="parameters", ylim=(0, 3))
    right.set_ylabel("time of ZeRO-1 / time of all-reduce")
    finish(figure, "buckets")

    figure, left, right = panels("Memory of a rank: parameters, gradients, state and buckets")
    for way in (PLAIN, ZERO, SPREAD):
        kept = np.array([well(machine, way, n, 10**10).memory for n in MANY])
        lines(left, way, kept / 1e9, label=way)
        lines(right, way, 256e9 / kept * 10**10, label=way)
    left.set(title="10^10 parameters", xlabel="ranks", ylabel="GB")
    right.set(title="What fits into 256 GB for a rank", xlabel="ranks", ylabel="parameters")
    finish(figure, "memory", left, right)


def versions():
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    mpi = " ".join(MPI.Get_library_version().split()[:3])
    return (
        f"{cpu_name()}, {os.cpu_count()} cores, "
        f"{fastadam.show_config(mode='dicts')['instruction_set']}; {platform.system()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, mpi4py {mpi4py.__version__}, {mpi}."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure on this machine first")
    parser.add_argument("--link-bandwidth", type=float, default=12.5e9, help="bytes/s of a machine")
    parser.add_argument("--latency", type=float, default=2e-6, help="seconds of a message")
    parser.add_argument("--memory-bandwidth", type=float, help="bytes/s; as was measured")
    parser.add_argument("--ranks-per-machine", type=int, default=1)
    parser.add_argument("--overlap", type=float, default=0.0, help="from 0 to 1")
    parser.add_argument("--to", type=Path, help="a folder for pictures; docs/ is left alone then")
    options = parser.parse_args()
    kept = DOCS / "scaling.json"
    if options.measure:
        runs = measured()
        report = {"machine": versions(), "constants": asdict(constants(runs)), "runs": runs}
        kept.write_text(json.dumps(report, indent=1) + "\n")
    report = json.loads(kept.read_text())
    machine = like(Machine(**report["constants"]), options)
    found = tables(report, machine, options)
    print(*found.values(), sep="\n\n")
    draw(machine, options.to or DOCS)
    if options.to is None:
        document = DOCS / "scaling.md"
        document.write_text(written(document.read_text(), found))


if __name__ == "__main__":
    main()
