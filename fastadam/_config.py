"""What this installation of fastadam is."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from fastadam import _backend
from fastadam._threads import get_num_threads
from fastadam._version import __version__


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Tell what fastadam is here: where it lies, and what its steps run on.

    ``python -m fastadam`` tells this and more: why it is so, and which optional packages are there.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        Print, or return a dict.

    Returns
    -------
    dict or None
        With the keys ``version``, ``location`` (the package's folder),
        ``backend`` ("c" or "numpy"), ``instruction_set`` (None with NumPy),
        ``instruction_sets`` (name: whether this CPU has it), ``built_with``
        (compiler and flags),
        ``threading`` ("OpenMP" or "none"), ``extension_missing`` (why, and what to
        do about it, or None), ``threads`` (what a large step uses), ``numpy`` and
        ``python`` (their versions) and ``platform``.

    Raises
    ------
    ValueError
        `mode` is neither.

    Examples
    --------
    >>> import fastadam
    >>> fastadam.show_config(mode="dicts")["backend"] in ("c", "numpy")
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', found {mode!r}")
    config = {
        "version": __version__,
        "location": str(Path(__file__).parent),
        **_backend.describe(),
        "threads": get_num_threads(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if mode == "dicts":
        return config
    for key, value in config.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} ({'yes' if has else 'no'})" for name, has in value.items())
        print(f"{key}: {value}")
    return None
