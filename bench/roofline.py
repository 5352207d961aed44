"""What limits a step of Adam at each size: tables and pictures for docs/kernel.md.

    pip install '.[bench,examples]' ml_dtypes
    python bench/roofline.py            # a minute or two; needs 3 GB of memory, and GCC or Clang
    python bench/roofline.py --quick    # fewer sizes and rounds, to try it out
    python bench/roofline.py --rewrite  # no measurement: page and pictures of what was measured

Measured are steps of one array of each size, interleaved in one process with what bounds them: a
step of an array without elements (the call), square roots and divisions alone and the other
arithmetic alone (bench/roofline.c, compiled as the kernels were), and the loads and stores alone
(`touch` in csrc/kernel.c). Then the same for each instruction set in the cache, and ways that move
more or fewer bytes. All times are medians.

Writes docs/kernel.json, the tables of docs/kernel.md, docs/kernel-data.png and
docs/kernel-roofline.png.
"""

import argparse
import ctypes
import json
import platform
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import fastadam
from fastadam import _backend, _codecs
from fastadam._bench import rivals
from fastadam._bench.cli import Work, in_words, make_arrays
from fastadam._bench.timing import measure
from fastadam._machine import cpu_name

DOCS = Path(__file__).parents[1] / "docs"
SOURCE = Path(__file__).with_suffix(".c")
NUMBERS, PASSES = 2_048, 128  # of a call of what is in that file
#: Flags of setup.py. Other sets need none.
AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
FLAGS = {
    "avx512_estimate": [*AVX512, "-DFA_ESTIMATE"],
    "avx512": AVX512,
    "avx2": ["-mavx2", "-mf16c"],
}
IN_C = {"float32": "float", "float64": "double"}
SIZES = (
    10, 100, 1_000, 10_000, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 33_554_432,
)  # fmt: skip
QUICK = 1_048_576  # the largest size with --quick
SHARED_FROM = 262_144  # elements; csrc/share.c gives no thread less than half as many
IN_CACHE = 16_384  # elements; the second cache holds their four arrays
MANY = Work(1_000, 10)
#: What is measured alone, and what tables call it.
UNITS = {"divider": "root and division", "arithmetic": "other arithmetic"}


def compiled_units(isa, dtype, folder):
    """Functions that do the divider's work of PASSES * NUMBERS elements, and the other work."""
    library = Path(folder, f"{isa}_{dtype}.so")
    command = [
        *_backend.describe()["built_with"].split(), *FLAGS.get(isa, ()), f"-DFA_REAL={IN_C[dtype]}",
        f"-DFA_BITS={dtype[-2:]}", f"-I{DOCS.parent / 'csrc'}", "-fPIC", "-shared",
        "-o", str(library), str(SOURCE), "-lm",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    functions = np.ctypeslib.load_library(library.name, folder)
    array = np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS")
    for function in (functions.divider, functions.arithmetic):
        function.argtypes = [array, array, ctypes.c_int64]
        function.restype = ctypes.c_double
    numbers = np.random.default_rng(0).uniform(0.5, 2.0, (4, NUMBERS)).astype(dtype)
    constants = np.array([1, 0.9, 0.1, 0.999, 0.001, 1, 1e-8, 1, 1e-3], dtype)
    return {
        "divider": partial(functions.divider, numbers[2], numbers[3], PASSES),
        "arithmetic": partial(functions.arithmetic, numbers, constants, PASSES),
    }


def each(times, elements):
    """The median time, for each element."""
    return float(np.median(times)) / elements


def units_of(times, *key):
    return {name: each(times[name, *key], PASSES * NUMBERS) for name in UNITS}


def measure_sizes(dtype, units, threads, quick):
    """Bounds and steps of a dtype; of large arrays with all threads, too."""
    sizes = [n for n in SIZES if n <= QUICK or not quick]
    rounds = 5 if quick else 25
    steps = {(name,): function for name, function in units.items()}
    for n in (0, *sizes):
        params, grads = make_arrays(Work(1, n), dtype)
        steps["step", n] = rivals.ours([p.copy() for p in params], grads)
        steps["streams", n] = rivals.streams(params, grads)
    for work in (Work(1, MANY.elements), MANY):
        steps["list", work.arrays] = rivals.ours(*make_arrays(work, dtype))
    rivals.set_threads(1)
    times = measure(steps, rounds)
    rows = [
        {
            "elements": n,
            "step": each(times["step", n], n),
            "streams": max(0.0, each(times["streams", n] - times["streams", 0], n)),
        }
        for n in sizes
    ]
    if threads > 1:
        rivals.set_threads(threads)
        shared = measure({n: steps["step", n] for n in sizes if n >= SHARED_FROM}, rounds)
        for row in rows:
            if row["elements"] in shared:
                row["shared"] = each(shared[row["elements"]], row["elements"])
    return {
        **units_of(times),
        "call": each(times["step", 0], 1),
        "array": each(times["list", MANY.arrays] - times["list", 1], MANY.arrays - 1),
        "sizes": rows,
    }


def measure_sets(units, quick):
    """Steps in the cache by the kernels of each instruction set, and what bounds them."""
    calls = 20  # of a step, since to choose a set takes a while

    def steps(isa, step):
        _backend.select(isa)
        for _ in range(calls):
            step()

    functions = {}
    for (isa, dtype), alone in units.items():
        step = rivals.ours(*make_arrays(Work(1, IN_CACHE), dtype))
        functions["step", isa, dtype] = partial(steps, isa, step)
        functions |= {(name, isa, dtype): function for name, function in alone.items()}
    rivals.set_threads(1)
    with _backend.using(_backend.describe()["instruction_set"]):
        times = measure(functions, 5 if quick else 25)
    return [
        {
            "instruction_set": isa,
            "dtype": dtype,
            "step": each(times["step", isa, dtype], calls * IN_CACHE),
            **units_of(times, isa, dtype),
        }
        for isa, dtype in units
    ]


def ways(n):
    """Steps of n elements by other ways: {name: (bytes moved for an element, step)}."""
    (param,), (grad,) = make_arrays(Work(1, n), "float32")

    def ours(make, p=param, g=grad, **options):
        return partial(make(p.copy(), **options).step, g)

    byte = (_codecs.BLOCK + 1) / _codecs.BLOCK  # with its share of the byte that scales a block
    found = {
        "`SGD` without momentum": (12, ours(fastadam.SGD)),
        '`Adam(state_dtype="int8")`': (12 + 4 * byte, ours(fastadam.Adam, state_dtype="int8")),
        "`Lion`": (20, ours(fastadam.Lion)),
        '`Adam(state_dtype="bfloat16")`': (20, ours(fastadam.Adam, state_dtype="bfloat16")),
        "`Adam`": (28, ours(fastadam.Adam)),
        "`Adam(max_grad_norm=1.0)`": (32, ours(fastadam.Adam, max_grad_norm=1.0)),
        "`Adam(ema_decay=0.999)`": (36, ours(fastadam.Adam, ema_decay=0.999)),
        "Adam in 12 passes of NumPy": (112, rivals.in_place([param.copy()], [grad])),
    }
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        print(f"without bfloat16 parameters: {error}")
    else:
        p, g = param.astype(bfloat16), grad.astype(bfloat16)
        name = '`Adam(state_dtype="bfloat16")`, parameters and gradients in bfloat16'
        found[name] = (18, ours(fastadam.Adam, p, g, state_dtype="bfloat16"))
    return found


def measure_ways(quick):
    n = QUICK if quick else 16_777_216
    found = ways(n)
    rivals.set_threads(1)
    times = measure({name: step for name, (_, step) in found.items()}, 3 if quick else 9)
    rows = [
        {"name": name, "elements": n, "bytes": moved, "step": each(times[name], n)}
        for name, (moved, _) in found.items()
    ]
    return sorted(rows, key=lambda row: row["bytes"])


def run(quick):
    config = fastadam.show_config(mode="dicts")
    if config["backend"] != "c":
        raise SystemExit("the NumPy backend has no kernels to measure")
    ours = config["instruction_set"]
    compiler = config["built_with"].split()[0]
    with tempfile.TemporaryDirectory() as folder:
        units = {
            (isa, dtype): compiled_units(isa, dtype, folder)
            for isa, has in config["instruction_sets"].items()
            if has
            for dtype in IN_C
        }
        dtypes = {
            dtype: measure_sizes(dtype, units[ours, dtype], config["threads"], quick)
            for dtype in IN_C
        }
        sets = measure_sets(units, quick)
    return {
        "machine": (
            f"{cpu_name()}, {in_words(config['threads'])}, {ours}; {platform.system()}, "
            f"Python {platform.python_version()}, numpy {np.__version__}, {compiler}."
        ),
        "cpu": cpu_name(),
        "instruction_set": ours,
        "threads": config["threads"],
        "dtypes": dtypes,
        "sets": sets,
        "ways": measure_ways(quick),
    }


MOVED = {"float32": 28, "float64": 56}  # bytes for an element
CACHED = 3  # which of the sizes the second cache holds
SHOWN_FROM = 1_000  # elements; with fewer, loads and stores are lost in the noise of a call


def bounds(constants, row):
    """Each bound of a size, in seconds for an element."""
    return {
        "call": constants["call"] / row["elements"],
        "divider": constants["divider"],
        "arithmetic": constants["arithmetic"],
        "streams": row["streams"],
    }


def roof(constants, row):
    """The call, and after it what takes longest; the others happen meanwhile."""
    each = bounds(constants, row)
    return each.pop("call") + max(each.values())


def ns(seconds):
    digits = 2 if seconds < 1e-8 else 1 if seconds < 1e-7 else 0
    return f"{seconds * 1e9:,.{digits}f}"


def table(head, aligned, rows):
    lines = [head, ["---" if side == "l" else "---:" for side in aligned], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_of_constants(report):
    each = report["dtypes"].values()

    def streams(place):
        for dtype, constants in report["dtypes"].items():
            seconds = constants["sizes"][place]["streams"]
            yield f"{ns(seconds)} ({MOVED[dtype] / seconds / 1e9:.0f} GB/s)"

    rows = [("a call", *(ns(c["call"]) for c in each))]
    for name, words in UNITS.items():
        rows.append((f"an element: {words}", *(ns(c[name]) for c in each)))
    for place in (CACHED, -1):
        n = next(iter(each))["sizes"][place]["elements"]
        rows.append((f"an element of {n:,}: loads and stores", *streams(place)))
    one_more = f"one more array of {MANY.elements} elements in a list"
    rows.append((one_more, *(ns(c["array"]) for c in each)))
    return table(("ns, 1 thread", *report["dtypes"]), "lrr", rows)


def table_of_sizes(report, dtype):
    constants = report["dtypes"][dtype]
    rows = []
    for row in constants["sizes"]:
        each, most = bounds(constants, row), roof(constants, row)
        cells = [
            f"{row['elements']:,}",
            *(ns(x) for x in (row["step"], each["call"], row["streams"], most)),
            max(each, key=each.get),
            f"{row['step'] / most:.2f}",
        ]
        if report["threads"] > 1:
            cells.append(ns(row["shared"]) if "shared" in row else "")
        rows.append(cells)
    head = [f"{dtype}, elements", "step", "call", "streams", "bound", "limited by", "step / bound"]
    if report["threads"] > 1:
        head.append(f"step, {in_words(report['threads'])}")
    return table(head, "rrrrrlrr"[: len(head)], rows)


def table_of_sets(report):
    rows = [
        (f"`{row['instruction_set']}`", row["dtype"],
         *(ns(row[name]) for name in ("step", *UNITS)))
        for row in report["sets"]
    ]  # fmt: skip
    head = (f"{IN_CACHE:,} elements, ns for each", "dtype", "step", *UNITS.values())
    return table(head, "llrrr", rows)


def table_of_ways(report):
    rows = [
        (row["name"], f"{row['bytes']:.4g}", ns(row["step"]),
         f"{row['bytes'] / row['step'] / 1e9:.0f}")
        for row in report["ways"]
    ]  # fmt: skip
    n = report["ways"][0]["elements"]
    return table((f"{n:,} elements", "bytes for each", "ns for each", "GB/s"), "lrrr", rows)


def rewritten(page, report):
    """The page with new tables between its marks."""
    tables = {
        "machine": report["machine"],
        "constants": table_of_constants(report),
        **{dtype: table_of_sizes(report, dtype) for dtype in report["dtypes"]},
        "sets": table_of_sets(report),
        "ways": table_of_ways(report),
    }
    for name, text in tables.items():
        begin, end = f"<!-- bench/roofline.py writes this: {name} -->", "<!-- to here -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"docs/kernel.md has no place for {name}")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page


READ, WRITTEN = {"fc": "#56B4E9"}, {"fc": "#E69F00", "hatch": "////"}


def draw_data(path):
    """The way of an element's numbers through the kernel, and that of separate passes."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, Rectangle

    figure = Figure(figsize=(10, 5.8))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(6, 64))
    axes.axis("off")

    def text(x, y, words, size=10, align="left", **options):
        axes.text(x, y, words, ha=align, va="center", fontsize=size, **options)

    def square(x, y, width, height, style):
        axes.add_patch(Rectangle((x, y), width, height, ec="0.2", lw=0.8, **style))

    def strip(x, y, name, style):
        for i in range(12):
            square(x + 1.7 * i, y, 1.7, 3.2, style if 5 <= i < 8 else {"fc": "white"})
        text(x, y - 1.3, name)

    def arrow(begin, end):
        axes.annotate("", end, begin, arrowprops={"arrowstyle": "-|>", "color": "k", "lw": 1.4})

    text(50, 61.5, "One pass: each number is read once and written at most once", 13, "center")
    text(3, 57.5, "memory: 4 arrays are read")
    text(50, 57.5, "registers: a vector of each", align="center")
    text(76.6, 57.5, "memory: 3 are written")
    low, high = 33, 54
    axes.add_patch(
        FancyBboxPatch((35, low), 30, high - low, "round,pad=0.5", fc="0.95", ec="k", lw=1.4)
    )
    rule = (
        "g = gradient * grad_factor",
        "m = b1*m + c1*g",
        "v = b2*v + c2*(g*g)",
        "denom = sqrt(v)*root + eps",
        "p = p*keep - (step_size*m)/denom",
    )
    for i, line in enumerate(rule):
        text(36, 51.7 - 4.1 * i, line, family="monospace")
    for i, name in enumerate(("gradient", "parameter (p)", "exp_avg (m)", "exp_avg_sq (v)")):
        y, at = 51.5 - 6.5 * i, high - (i + 0.5) * (high - low) / 4
        strip(3, y, name, READ)
        arrow((23.8, y + 1.6), (34.4, at))
        if i > 0:
            strip(76.6, y, name, WRITTEN)
            arrow((65.6, at), (76.2, y + 1.6))

    axes.plot((3, 97), (27.4, 27.4), color="0.7", lw=0.8)
    text(3, 24.5, "How often all numbers of an array are read or written, 4 bytes an element:", 11)

    def trips(y, name, calls):
        text(3, y + 1.2, name)
        x = 27
        for call in calls.split():
            for trip in call:
                square(x, y, 1.7, 2.4, READ if trip == "r" else WRITTEN)
                x += 1.7
            x += 0.9
        text(x + 0.3, y + 1.2, f"{4 * len(calls.replace(' ', ''))} bytes", 11)

    trips(19, "the kernel: one pass", "rrrrwww")
    trips(14, "NumPy: 12 calls, in place", "rw rw rrw rw rw rw rrw rw rw rrw rw rrw")
    for x, style, name in ((27, READ, "an array is read"), (47, WRITTEN, "an array is written")):
        square(x, 8.4, 1.7, 2.4, style)
        text(x + 2.6, 9.6, name)
    figure.savefig(path, dpi=110)


#: What the picture calls the bounds, and how it draws them.
BOUNDS = {
    "call": ("a call, divided by the elements", "#0072B2", (0, (1, 1.5))),
    "divider": ("a square root and a division", "#D55E00", (0, (6, 2))),
    "arithmetic": ("all other arithmetic", "#009E73", (0, (6, 2, 1, 2))),
    "streams": ("loads and stores", "#CC79A7", (0, (2, 1))),
}


def draw_roofline(report, path):
    """Steps by size beside their bounds, a panel for each dtype."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), layout="constrained")
    panels = figure.subplots(1, len(report["dtypes"]), sharey=True)
    for axes, (dtype, constants) in zip(panels, report["dtypes"].items(), strict=True):
        draw_panel(axes, constants)
        axes.set(title=dtype, xlabel="elements of one array")
    most = max(axes.get_ylim()[1] for axes in panels)
    panels[0].set_ylim(0.05, 5 * most)  # room for the names
    panels[0].set_ylabel("nanoseconds per element")
    panels[0].legend(loc="upper right", bbox_to_anchor=(1, 0.9))
    figure.suptitle(
        f"What limits a step of Adam, 1 thread; {report['cpu']}, {report['instruction_set']}"
    )
    figure.savefig(path, dpi=110)


def draw_panel(axes, constants):
    rows = constants["sizes"]
    sizes = np.array([row["elements"] for row in rows])
    each = [bounds(constants, row) for row in rows]
    for name, (label, color, style) in BOUNDS.items():
        shown = sizes >= (SHOWN_FROM if name == "streams" else 0)
        values = np.array([b[name] for b in each]) * 1e9
        axes.loglog(sizes[shown], values[shown], ls=style, color=color, lw=2, label=label)
    most = [roof(constants, row) * 1e9 for row in rows]
    axes.loglog(sizes, most, color="0.75", lw=7, label="all of them together", zorder=1)
    steps = [row["step"] * 1e9 for row in rows]
    axes.loglog(sizes, steps, "ko", markersize=6, label="a step of fastadam", zorder=4)
    axes.grid(alpha=0.3)
    # Which bound is the highest, from one border to the next
    borders = [sizes[0] / 2, *np.sqrt(sizes[1:] * sizes[:-1]), sizes[-1] * 4]
    axes.set_xlim(borders[0], borders[-1])
    names = [max(b, key=b.get) for b in each]
    begin = 0
    for i in range(1, len(names) + 1):
        if i == len(names) or names[i] != names[begin]:
            low, high = borders[begin], borders[i]
            axes.axvline(low, color="0.4", lw=0.8)
            axes.text(
                np.sqrt(low * high), 0.96, names[begin], ha="center", va="top",
                transform=axes.get_xaxis_transform(), fontsize=11,
            )  # fmt: skip
            begin = i


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--rewrite", action="store_true", help="measure nothing")
    options = parser.parse_args()

    if not options.rewrite:
        (DOCS / "kernel.json").write_text(json.dumps(run(options.quick), indent=1) + "\n")
    report = json.loads((DOCS / "kernel.json").read_text())
    page = DOCS / "kernel.md"
    page.write_text(rewritten(page.read_text(), report))
    draw_data(DOCS / "kernel-data.png")
    draw_roofline(report, DOCS / "kernel-roofline.png")


if __name__ == "__main__":
    main()
