"""`python -m fastadam`: what this installation is; `python -m fastadam bench`: how fast.

docs/command-line.md describes what they print.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from typing import Any

from fastadam import __version__, _report, set_num_threads, show_config
from fastadam._bench import cli
from fastadam._output import note, say

ABOUT = """\
Tell what this installation of fastadam is: where it lies, whether the compiled
extension or NumPy does the steps and why, which instruction set, how many threads,
which optional packages are there and how to get the others."""

MORE = """\
environment variables:
  FASTADAM_BACKEND      c or numpy: use this one
  FASTADAM_ISA          use the kernels of this instruction set
  FASTADAM_NUM_THREADS  how many threads a large step may use, over OMP_NUM_THREADS

exit status: 0; 1 with --require-compiled where NumPy stands in, or if a variable has a
value that it cannot have; 2 for an argument that there is not."""

ABOUT_BENCH = """\
Time an Adam step beside the other libraries that are installed (PyTorch, numba,
scikit-learn, thinc): some 15 seconds on an idle machine. Each line of the table is a
step of so many arrays x elements of each, in microseconds. Progress goes to stderr."""

MORE_BENCH = """\
exit status: 0; 1 with --require-compiled where NumPy stands in; 2 for an argument that
there is not; 130 after Ctrl-C, before which what was measured is printed (not with --json)."""


def main(arguments: list[str] | None = None) -> int:
    parser, bench = _parsers()
    try:
        options, unknown = parser.parse_known_args(arguments)
        if unknown:
            _refuse(bench if options.command == "bench" else parser, unknown)
        if options.command == "bench":
            if options.threads is not None:
                set_num_threads(options.threads)
            if options.plot is not None:
                cli.check_picture(options.plot)
    except ValueError as error:
        bench.error(str(error))
    except SystemExit:
        say(end="")  # help, perhaps to a reader that has gone
        raise
    config = show_config(mode="dicts")
    lacks_extension = options.require_compiled and config["backend"] != "c"
    if options.command == "bench":
        if not lacks_extension:
            return cli.run(options.plot, options.dtype, options.json)
        why = _report.why_backend(config)
        note(f"nothing was measured: NumPy stands in for the compiled extension, because {why}")
    else:
        report = _report.report()
        say(json.dumps(report, indent=2) if options.json else _report.as_text(report))
    return int(lacks_extension)


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    raw = argparse.RawDescriptionHelpFormatter
    prog = "python -m fastadam"
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [options]\n       {prog} bench [options of bench]",
        description=ABOUT,
        epilog=MORE,
        formatter_class=raw,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"fastadam {__version__}",
        help="print the version and exit",
    )
    _add_common(parser, default=False)
    commands = parser.add_subparsers(title="commands", dest="command", prog=prog)
    bench = commands.add_parser(
        "bench",
        help="time an Adam step beside other libraries; bench --help has its options",
        description=ABOUT_BENCH,
        epilog=MORE_BENCH,
        formatter_class=raw,
    )
    # with a default of its own it would undo what stands before the word bench
    _add_common(bench, default=argparse.SUPPRESS)
    bench.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="of the arrays; default: float32",
    )
    bench.add_argument(
        "--threads", type=int, metavar="N", help="for every library; default: fastadam's own number"
    )
    bench.add_argument(
        "--plot",
        metavar="FILE",
        help="draw the figures, too, as .png, .svg or .pdf (needs matplotlib)",
    )
    return parser, bench


def _add_common(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--json", action="store_true", default=default, help="print JSON in place of text"
    )
    parser.add_argument(
        "--require-compiled",
        action="store_true",
        default=default,
        help="exit with status 1 if NumPy stands in for the compiled extension",
    )


def _refuse(parser: argparse.ArgumentParser, unknown: list[str]) -> None:
    """Say what was probably meant by an argument that there is not."""
    known = re.findall(r"--[\w-]+", parser.format_help())
    meant = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
    hint = f"did you mean {meant[0]}?" if meant else "--help lists what there is"
    parser.error(f"unknown: {' '.join(unknown)}; {hint}")


if __name__ == "__main__":
    sys.exit(main())
