"""What `python -m fastadam` tells: the facts of `show_config`, and why they are as they are.

docs/command-line.md lists the keys.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable
from typing import Any

from fastadam import _backend, _machine, _threads
from fastadam._config import show_config

#: Optional packages, as pip calls them, and what each is for.
PACKAGES = {
    "torch": "fastadam.torch",
    "scikit-learn": "fastadam.sklearn",
    "scipy": "fastadam.scipy, scipy.sparse gradients",
    "mpi4py": "fastadam.mpi",
    "safetensors": "checkpoints named .safetensors",
    "ml_dtypes": "bfloat16 arrays",
    "matplotlib": "bench --plot",
    "threadpoolctl": "limits on threads",
}


def report() -> dict[str, Any]:
    """All that there is to tell, fit for JSON."""
    config = show_config(mode="dicts")
    native = _backend.native()
    cpu = {
        "name": _machine.cpu_name(),
        "logical": os.cpu_count(),
        "physical": _machine.physical_cores(),
        "usable": _machine.usable_cpus(),
    }
    packages = {
        name: {
            "version": _machine.package_version(name),
            "used_for": used_for,
            "install": f"pip install {name}",
        }
        for name, used_for in PACKAGES.items()
    }
    return {
        **config,
        "backend_reason": why_backend(config),
        "instruction_set_reason": _why_instruction_set(config),
        "threads_reason": _why_threads(config, cpu),
        "openmp_runtime": native
        and _machine.shared_library(native.__file__, "omp_get_max_threads"),
        "cpu": cpu,
        "packages": packages,
        "mpi_library": _machine.mpi_library() if packages["mpi4py"]["version"] else None,
    }


def why_backend(config: dict[str, Any]) -> str:
    """What led to the backend, as a clause."""
    asked = os.environ.get("FASTADAM_BACKEND")
    if config["backend"] == "numpy":
        missing: str | None = config["extension_missing"]
        return missing if missing and not asked else "FASTADAM_BACKEND=numpy is set"
    required = ", as FASTADAM_BACKEND=c requires" if asked else ""
    return f"the compiled extension was loaded{required}"


def _why_instruction_set(config: dict[str, Any]) -> str | None:
    if config["instruction_set"] is None:
        return None
    asked = os.environ.get("FASTADAM_ISA")
    return f"FASTADAM_ISA={asked} is set" if asked else "it is the fastest one on this CPU"


def _why_threads(config: dict[str, Any], cpu: dict[str, Any]) -> str:
    if config["backend"] == "numpy":
        return "the NumPy backend has no more"
    if config["threading"] == "none":
        return "it was built without OpenMP"
    if _threads.asked_by:
        return _threads.asked_by
    of_openmp = os.environ.get("OMP_NUM_THREADS", "")  # may be a list, for nested regions
    if of_openmp.partition(",")[0].strip() == str(config["threads"]):
        return f"OMP_NUM_THREADS={of_openmp} is set"
    if config["threads"] != cpu["usable"]:
        return "the OpenMP runtime chose so"
    part = f", {cpu['usable']} of {cpu['logical']}" if cpu["usable"] != cpu["logical"] else ""
    return f"there is one for each CPU that this process may run on{part}"


def as_text(report: dict[str, Any]) -> str:
    """The same to be read."""
    sets = report["instruction_sets"]
    cpu = report["cpu"]
    here = [
        ("installed in", _unbroken(report["location"])),
        ("backend", f"{report['backend']}, because {report['backend_reason']}"),
    ]
    if report["extension_missing"] not in (None, report["backend_reason"]):
        here.append(("extension", f"missing: {report['extension_missing']}"))
    if report["instruction_set"]:
        chosen = f"{report['instruction_set']}, because {report['instruction_set_reason']}"
        here.append(("instruction set", chosen))
    if sets:
        here.append(("this CPU has", _listed(name for name, has in sets.items() if has)))
        here.append(("and lacks", _listed(name for name, has in sets.items() if not has)))
    here.append(("threads", f"{report['threads']}, because {report['threads_reason']}"))
    if report["threading"] != "none":
        here.append(("OpenMP runtime", _unbroken(report["openmp_runtime"] or "unknown")))
    if report["built_with"]:
        here.append(("built with", report["built_with"]))
    machine = [
        ("CPU", cpu["name"]),
        (
            "cores",
            f"{cpu['physical'] or 'unknown'} physical, {cpu['logical'] or 'unknown'} logical",
        ),
        ("platform", report["platform"]),
        ("Python", report["python"]),
        ("NumPy", report["numpy"]),
    ]
    return "\n".join(
        [
            f"fastadam {report['version']}",
            *_lines(here),
            "\nThis machine",
            *_lines(machine),
            "\nOptional packages",
            *_lines(_packages(report)),
        ]
    )


def _packages(report: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for name, package in report["packages"].items():
        if package["version"]:
            yield name, f"{package['version']} ({package['used_for']})"
        else:
            yield name, f"not installed ({package['used_for']}): {package['install']}"
        if name == "mpi4py" and package["version"]:
            yield "MPI library", _unbroken(report["mpi_library"] or "none found: pip install mpich")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _unbroken(text: str) -> str:
    """A path or a command, to be copied: its spaces end no line."""
    return text.replace(" ", "\0")


def _lines(facts: Iterable[tuple[str, str]]) -> Iterable[str]:
    for label, fact in facts:
        yield textwrap.fill(
            re.sub("`.*?`", lambda command: _unbroken(command[0]), fact),
            width=98,
            initial_indent=f"  {label + ':':17}",
            subsequent_indent=" " * 19,
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\0", " ")
