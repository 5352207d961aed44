"""How much pip installs for fastadam and for each of those it is compared with.

    python bench/install_size.py            # all
    python bench/install_size.py . optax    # or some; "." is fastadam in the source folder

Each goes into an empty folder, with all that it depends on. Prints the table of docs/comparison.md:
what that takes unpacked, with NumPy and without, and how many distributions it is. On Linux, pip
takes the PyTorch for CUDA; where it knows of others, torch==2.13.0+cpu is the one for CPUs.
"""

import importlib.metadata
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ALL = [".", "numba", "scikit-learn", "optax", "thinc", "keras", "torch", "deepspeed"]
MEGA = 10**6


def installed(requirement):
    """Its version, the bytes of all files, and the names of all distributions."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", folder]
        subprocess.run([*command, requirement], check=True)
        found = {d.name.lower(): d.version for d in importlib.metadata.distributions(path=[folder])}
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    name = "fastadam" if requirement == "." else requirement.partition("==")[0]
    return name, found[name], size, sorted(found)


def main():
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()},", end=" ")
    print(f"{date.today()}\n\n| | MB, unpacked | of these without NumPy | distributions |")
    print("|---|---:|---:|---:|")
    *_, numpy, _ = installed("numpy")
    for requirement in sys.argv[1:] or ALL:
        name, version, size, names = installed(requirement)
        sizes = f"{size / MEGA:,.0f} | {(size - numpy) / MEGA:,.0f}"
        print(f"| {name} {version} | {sizes} | {len(names)} |", flush=True)


if __name__ == "__main__":
    main()
