"""`python -m fastadam`: what this installation is; `python -m fastadam bench`: how fast."""

from __future__ import annotations

import argparse
import json
import sys

from fastadam import show_config


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastadam", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the configuration as JSON")
    parser.add_argument(
        "--require-compiled",
        action="store_true",
        help="exit with status 1 if NumPy stands in for the compiled extension",
    )
    commands = parser.add_subparsers(dest="command")
    bench = commands.add_parser("bench", help="time a step against other libraries, in a minute")
    bench.add_argument("--plot", metavar="FILE", help="draw the table, too (needs matplotlib)")
    options = parser.parse_args(arguments)

    if options.command == "bench":
        from fastadam._bench.cli import run  # imports the rivals

        return run(options.plot)
    config = show_config(mode="dicts")
    if options.json:
        print(json.dumps(config, indent=2))
    else:
        show_config()
    return int(options.require_compiled and config["backend"] != "c")


if __name__ == "__main__":
    sys.exit(main())
