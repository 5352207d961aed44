"""Choose what runs the rule: the compiled extension or NumPy. Done once, on import."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from fastadam import _numpy

_PACKAGE = Path(__file__).parent
NOT_BUILT = "_not_built.txt"  # where setup.py writes why it could not compile the extension


def _explain(error: ImportError) -> str:
    """Why there is no compiled extension, and what to do about it."""
    root = _PACKAGE.parent
    in_sources = (root / "csrc").is_dir() and (root / "setup.py").is_file()
    if PathFinder.find_spec("fastadam._native", [str(_PACKAGE)]) is not None:
        return f"its compiled extension in {_PACKAGE} cannot be loaded ({error}); install it anew"
    note = _PACKAGE / NOT_BUILT
    cause = note.read_text(encoding="utf-8") if note.is_file() else ""
    if in_sources and not cause:
        return (
            f"it was loaded from its source folder, {root}, where its compiled extension is not "
            "built. To use the fastadam that `pip install .` installs, keep your script and start "
            "Python outside that folder, or start it with -P; to use this one, build its "
            "extension with `pip install -e .`"
        )
    failed = f"; it could not be built: {cause}" if cause else ""
    return (
        f"there is no compiled extension in {_PACKAGE}{failed}. Install a wheel of fastadam, or "
        "install it again where there is a C compiler (Debian, Ubuntu: apt install gcc "
        "python3-dev)"
    )


_native: ModuleType | None = None
_missing: str | None = None  # why, and what to do about it
try:
    _native = import_module("fastadam._native")
except ImportError as error:
    _missing = _explain(error)

#: What `select` takes, fastest first: this CPU's instruction sets, then NumPy.
available: list[str] = ["numpy"]
if _native:
    _best = _native.best()
    _sets = [name for name, has in _native.instruction_sets().items() if has]
    available[:0] = sorted(_sets, key=lambda name: name != _best)
_module: ModuleType = _numpy


def module() -> Any:
    """The chosen backend: a module with `Batch` and `Lock`."""
    return _module


def native() -> Any:
    """The compiled module if it is the chosen backend, else None."""
    return None if _module is _numpy else _module


def describe() -> dict[str, Any]:
    """What was compiled, what this CPU has and what was chosen."""
    compiled = _module is not _numpy
    return {
        "backend": "c" if compiled else "numpy",
        "instruction_set": _native.used() if _native and compiled else None,
        "instruction_sets": _native.instruction_sets() if _native else {},
        "built_with": _native.built_with if _native else None,
        "threading": _native.threading if _native and compiled else "none",
        "extension_missing": _missing,
    }


def select(choice: str) -> None:
    """Use one of `available` from now on."""
    global _module
    if choice == "numpy" or _native is None:
        _module = _numpy
    else:
        _native.use(choice)
        _module = _native


def warn_of_numpy() -> None:
    """Warn where NumPy stands in for the extension and nobody asked it to.

    The package's `__init__` calls this, so that the warning names the line that imports it.
    """
    asked = os.environ.get("FASTADAM_BACKEND") == "numpy"
    if _missing and not asked:
        warnings.warn(
            f"fastadam runs on NumPy, which is slower: {_missing}. "
            "FASTADAM_BACKEND=numpy silences this warning.",
            RuntimeWarning,
            stacklevel=3,
        )


@contextmanager
def using(choice: str) -> Iterator[None]:
    """Use one of `available` for a while."""
    before = describe()["instruction_set"] or "numpy"
    select(choice)
    try:
        yield
    finally:
        select(before)


def refused(message: str) -> ImportError:
    """An error of the environment. Being named, `python -m fastadam` says it in one line."""
    return ImportError(message, name="fastadam")


def _choose() -> None:
    backend = os.environ.get("FASTADAM_BACKEND", "")
    if backend not in ("", "c", "numpy"):
        raise refused(f"FASTADAM_BACKEND={backend}: expected c or numpy")
    if backend == "c" and _native is None:
        raise refused(f"FASTADAM_BACKEND=c: fastadam cannot use its C kernels: {_missing}")
    wanted = os.environ.get("FASTADAM_ISA", "")
    if wanted and wanted not in available[:-1]:
        if _missing:
            raise refused(f"FASTADAM_ISA={wanted}: fastadam has no C kernels: {_missing}")
        found = ", ".join(available[:-1])
        raise refused(f"FASTADAM_ISA={wanted}: not available; this CPU and build have {found}")
    select("numpy" if backend == "numpy" else wanted or available[0])


_choose()
