"""The headline figures of a step, beside those kept for this CPU or those of an earlier commit.

    python bench/record.py                     # beside what bench/record.json keeps
    python bench/record.py --save              # and keep the new figures in their place
    python bench/record.py --against HEAD~1    # build that commit, and run both by turns
    python bench/record.py --against clean/lib/python3.11/site-packages    # what is installed there
    python bench/record.py --fail-above 1.02   # exit with status 1 if a row is slower than that

One thread; microseconds per step, medians; a minute and 2 GB of memory. A ratio above 1 means:
slower now. With --against it is the ratio of the times. Kept figures are of another day,
when the machine may have been busier or clocked otherwise: there it is the ratio of the
times after each was divided by that of the streams alone (the same memory moved, hardly any
arithmetic), measured beside it.
"""

import argparse
import datetime
import importlib
import json
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastadam
from fastadam._bench import rivals
from fastadam._bench.cli import Work, make_arrays
from fastadam._bench.timing import measure, ratio
from fastadam._machine import cpu_name

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).with_name("record.json")
PARTS = 4  # of the rounds, each with arrays of its own; an even number


def adam(package, params, grads):
    return partial(package.Adam(params).step, grads)


def clipped(package, params, grads):
    return partial(package.Adam(params, max_grad_norm=1.0).step, grads)


def adam_step(package, params, grads):
    exp_avg, exp_avg_sq = ([np.zeros_like(p) for p in params] for _ in range(2))
    return partial(package.adam_step, params, grads, exp_avg, exp_avg_sq, step=1)


def on_numpy(package, params, grads):
    with package._backend.using("numpy"):
        return adam(package, params, grads)


class Row(NamedTuple):
    name: str
    make: Callable
    work: Work
    dtype: str


ROWS = [
    Row(f"{name} {work} {dtype}", make, work, dtype)
    for name, make, work, dtype in [
        ("Adam", adam, Work(1, 10), "float32"),
        ("Adam", adam, Work(1_000, 10), "float32"),
        ("Adam", adam, Work(100, 1_000), "float32"),
        *[
            ("Adam", adam, Work(1, n), dtype)
            for n in (65_536, 262_144, 1_048_576, 16_777_216)
            for dtype in ("float32", "float64")
        ],
        ("adam_step", adam_step, Work(100, 1_000), "float32"),
        ("max_grad_norm", clipped, Work(1, 1_048_576), "float32"),
        ("NumPy backend", on_numpy, Work(1, 65_536), "float32"),
    ]
]


def measure_row(row, makers, rounds):
    """Times of the steps that `makers` make of a row's arrays.

    Each part of the rounds has arrays of its own, since where memory lies counts for some
    percent, and what comes first in one part comes last in the next.
    """
    parts = []
    for part in range(PARTS):
        params, grads = make_arrays(row.work, row.dtype)
        order = reversed(makers) if part % 2 else makers
        steps = {name: makers[name]([p.copy() for p in params], grads) for name in order}
        parts.append(measure(steps, rounds // PARTS))
        del params, grads, steps  # before the next part makes its own
    return {name: np.concatenate([times[name] for times in parts]) for name in makers}


def beside_kept(kept, row, rounds):
    """This row's figures, the kept time and the ratio; None where nothing is kept."""
    makers = {"now": partial(row.make, fastadam), "streams": rivals.streams}
    times = measure_row(row, makers, rounds)
    figures = {
        "seconds": float(f"{np.median(times['now']):.4g}"),
        "of streams": float(f"{ratio(times, 'now', 'streams'):.4g}"),
    }
    then = kept.get(row.name)
    if then is None:
        return figures, None, None
    return figures, then["seconds"], figures["of streams"] / then["of streams"]


def beside_build(package, row, rounds):
    """This row's figures, the other build's time and the ratio."""
    makers = {"now": partial(row.make, fastadam), "before": partial(row.make, package)}
    times = measure_row(row, makers, rounds)
    now, before = (np.median(times[name]) for name in makers)
    return {"seconds": now}, before, ratio(times, "now", "before")


def build(revision, folder):
    """The package as it was at a revision, built in `folder` and imported as fastbefore."""
    archive = folder / "archive.tar"
    if subprocess.run(["git", "-C", ROOT, "archive", "-o", archive, revision]).returncode:
        sys.exit(1)  # git has said why
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    for path in sorted(folder.rglob("*fastadam*"), reverse=True):  # a folder after its contents
        path.rename(path.with_name(path.name.replace("fastadam", "fastbefore")))
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b"fastadam", b"fastbefore"))
    print(f"building {revision} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    sys.path.insert(0, str(folder))
    before = importlib.import_module("fastbefore")
    if before.show_config(mode="dicts")["backend"] != "c":
        sys.exit(f"{revision} does not build here:\n{built.stderr[-2000:]}")
    return before


def installed(folder):
    """The package that is installed in a folder, such as a wheel, imported beside ours."""

    def set_aside():
        names = [name for name in sys.modules if name.partition(".")[0] == "fastadam"]
        return {name: sys.modules.pop(name) for name in names}

    ours = set_aside()
    sys.path.insert(0, str(folder))
    try:
        other = importlib.import_module("fastadam")
    finally:
        sys.path.pop(0)
        set_aside()
        sys.modules.update(ours)
    if Path(other.__file__).parent.parent != folder:
        sys.exit(f"no fastadam is installed in {folder}")
    print(f"against {Path(other.__file__).parent}")
    config = other.show_config(mode="dicts")
    if config["backend"] != "c":
        sys.exit(f"in {folder} the compiled extension is missing")
    if config["instruction_set"] != fastadam.show_config(mode="dicts")["instruction_set"]:
        sys.exit(f"in {folder} the instruction set is {config['instruction_set']}")
    return other


def this_cpu(config):
    """The CPU's name, what tells it from others of that name, and the instruction set."""
    info = Path("/proc/cpuinfo")
    text = info.read_text().partition("\n\n")[0] if info.exists() else ""
    fields = re.findall(r"^(cpu family|model|CPU implementer|CPU part)\s*: (.*)$", text, re.M)
    return ", ".join([cpu_name(), *(f"{key} {value}" for key, value in fields),
                      config["instruction_set"]])  # fmt: skip


def circumstances(config):
    """What else a figure depends on."""
    compiler, *flags = config["built_with"].split()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    commit = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "numpy": np.__version__,
        "compiler": version.stdout.partition("\n")[0],
        "flags": " ".join(flags),
    }


def report(compare, columns, rounds):
    """Print a line for each row; the figures by row, and the worst ratio with its row."""
    print(" " * 36 + "".join(f"{column:>14}" for column in columns))
    all_figures, worst = {}, None
    for row in ROWS:
        figures, before, longer = compare(row, rounds)
        all_figures[row.name] = figures
        line = f"{row.name:36}{figures['seconds'] * 1e6:14,.2f}"
        if longer is not None:
            line += f"{before * 1e6:14,.2f}{longer:14.3f}"
            worst = max(worst or (0, ""), (longer, row.name))
        print(line, flush=True)
    return all_figures, worst


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--save", action="store_true", help="keep the figures for this CPU")
    what.add_argument(
        "--against",
        metavar="REVISION",
        help="a commit to build and compare with, or the folder of another install",
    )
    parser.add_argument(
        "--fail-above", type=float, metavar="RATIO", help="exit with status 1 if one is above"
    )
    parser.add_argument("--rounds", type=int, default=20, help="of each row (default: 20)")
    options = parser.parse_args()
    rounds = max(PARTS, options.rounds)

    config = fastadam.show_config(mode="dicts")
    if config["backend"] != "c":
        sys.exit("this measures the compiled extension, and NumPy stands in for it")
    fastadam.set_num_threads(1)
    name = this_cpu(config)
    print(f"{name}; {Path(fastadam.__file__).parent}")
    if options.against:
        with tempfile.TemporaryDirectory() as folder:
            if Path(options.against).is_dir():
                package, column = installed(Path(options.against).resolve()), "there"
            else:
                package, column = build(options.against, Path(folder)), options.against
            package.set_num_threads(1)
            columns = ("now", column, "ratio")
            _, worst = report(partial(beside_build, package), columns, rounds)
    else:
        record = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        kept = record.get(name, {}).get("rows", {})
        columns = ("now", "kept", "ratio/streams")
        figures, worst = report(partial(beside_kept, kept), columns, rounds)
        if options.save:
            record[name] = {**circumstances(config), "rows": figures}
            KEPT.write_text(json.dumps(record, indent=1) + "\n")
    if worst is None:
        print("no figures are kept for this CPU" + "; these are now" * options.save)
        return int(options.fail_above is not None)
    longer, where = worst
    print(f"worst ratio: {longer:.3f} ({where})")
    return int(options.fail_above is not None and longer > options.fail_above)


if __name__ == "__main__":
    sys.exit(main())
