"""What the computer is and which libraries it has, for `python -m fastadam`.

Only the standard library is asked, and what it cannot tell is None.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import site
import subprocess
import sys
from contextlib import suppress
from ctypes.util import find_library
from importlib import metadata
from pathlib import Path

MPI_NAMES = ("libmpi.so", "libmpi.so.12", "libmpi.so.40", "libmpi.dylib", "impi.dll", "msmpi.dll")


def cpu_name() -> str:
    """The CPU's name, or at least its kind."""
    ask = {"Linux": _linux_name, "Darwin": _macos_name, "Windows": _windows_name}
    name = None
    with suppress(OSError):
        name = ask.get(platform.system(), str)()
    return name or platform.processor() or platform.machine() or "unknown"


def _linux_name(root: Path = Path("/")) -> str | None:
    text = (root / "proc/cpuinfo").read_text(errors="replace")
    found = re.search(r"^model name\s*: *(.*?) *$", text, re.M)  # Linux on ARM has none
    return found and found[1]


def _macos_name() -> str | None:
    return _sysctl("machdep.cpu.brand_string")


def _windows_name() -> str | None:
    winreg = importlib.import_module("winreg")
    path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
        return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()


def _sysctl(name: str) -> str | None:
    command = ["/usr/sbin/sysctl", "-n", name]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def physical_cores(root: Path = Path("/")) -> int | None:
    """How many cores there are; those that run two threads at once count as one."""
    if platform.system() == "Darwin":
        with suppress(OSError):
            return int(_sysctl("hw.physicalcpu") or 0) or None
    siblings = set()  # Linux: the logical CPUs of a core all name the same ones
    with suppress(OSError):
        for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*"):
            siblings.add((folder / "topology/thread_siblings_list").read_text())
    return len(siblings) or None


def usable_cpus() -> int | None:
    """How many logical CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def shared_library(extension: str, function: str) -> str | None:
    """The path of the library from which an imported extension takes a function of C."""

    class Found(ctypes.Structure):
        _fields_ = (
            ("path", ctypes.c_char_p),
            ("base", ctypes.c_void_p),
            ("name", ctypes.c_char_p),
            ("address", ctypes.c_void_p),
        )

    found = Found()
    try:
        address = ctypes.cast(getattr(ctypes.CDLL(extension), function), ctypes.c_void_p)
        known = ctypes.CDLL(None).dladdr(address, ctypes.byref(found))
    except (AttributeError, OSError, TypeError):  # no such function; Windows has no dladdr
        return None
    return os.path.realpath(os.fsdecode(found.path)) if known else None


def mpi_library() -> str | None:
    """An MPI library in the places where mpi4py looks for one. Nothing is loaded."""
    variables = ("MPI4PY_LIBMPI", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    places = [place for name in variables for place in os.environ.get(name, "").split(os.pathsep)]
    for prefix in (sys.exec_prefix, site.getuserbase(), sys.base_exec_prefix):
        places += [f"{prefix}/lib", f"{prefix}/Library/bin", f"{prefix}/DLLs"]
    places += ["/opt/homebrew/lib", "/opt/local/lib"]
    for place in filter(None, places):
        for candidate in (Path(place), *(Path(place, name) for name in MPI_NAMES)):
            if candidate.is_file():
                return str(candidate)
    return find_library("mpi") or find_library("impi") or find_library("msmpi")


def package_version(name: str) -> str | None:
    """The version of an installed package, which is not imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
