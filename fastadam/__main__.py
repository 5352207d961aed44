"""`python -m fastadam`: what this installation is; `python -m fastadam bench`: how fast."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fastadam import __version__, set_num_threads, show_config
from fastadam._bench import cli


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastadam", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fastadam {__version__}")
    _add_common(parser, default=False)
    what = "time an Adam step beside other libraries, some 15 seconds on an idle machine"
    bench = parser.add_subparsers(dest="command").add_parser("bench", help=what, description=what)
    # with a default of its own it would undo what stands before the word bench
    _add_common(bench, default=argparse.SUPPRESS)
    bench.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="default: float32"
    )
    bench.add_argument(
        "--threads", type=int, metavar="N", help="for every library; default: fastadam's own number"
    )
    bench.add_argument("--plot", metavar="FILE", help="draw the figures, too (needs matplotlib)")
    options = parser.parse_args(arguments)

    if options.command == "bench":
        try:
            if options.threads is not None:
                set_num_threads(options.threads)
            if options.plot is not None:
                cli.check_picture(options.plot)
        except ValueError as error:
            bench.error(str(error))
    config = show_config(mode="dicts")
    lacks_extension = options.require_compiled and config["backend"] != "c"
    if options.command == "bench":
        if not lacks_extension:
            return cli.run(options.plot, options.dtype, options.json)
        why = config["extension_missing"] or "FASTADAM_BACKEND=numpy"
        print(
            f"nothing was measured: NumPy stands in for the compiled extension ({why})",
            file=sys.stderr,
        )
    elif options.json:
        print(json.dumps(config, indent=2))
    else:
        show_config()
    return int(lacks_extension)


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


if __name__ == "__main__":
    sys.exit(main())
