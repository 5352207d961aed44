"""What this installation of fastadam is."""

from __future__ import annotations

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
    """Tell what runs the rule here: backend, instruction set, compiler.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        Print, or return a dict.

    Returns
    -------
    dict or None
        With the keys ``version``, ``backend`` ("c" or "numpy"),
        ``instruction_set`` (None with NumPy), ``instruction_sets`` (name:
        whether this CPU has it), ``built_with`` (compiler and flags),
        ``threading`` ("OpenMP" or "none"), ``extension_missing`` (why, and what to
        do about it, or None), ``threads`` (what a large step uses) and ``numpy`` (its
        version).

    Raises
    ------
    ValueError
        `mode` is neither.

    Examples
    --------
    >>> fastadam.show_config(mode="dicts")["backend"] in ("c", "numpy")
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', found {mode!r}")
    config = {
        "version": __version__,
        **_backend.describe(),
        "threads": get_num_threads(),
        "numpy": np.__version__,
    }
    if mode == "dicts":
        return config
    for key, value in config.items():
        print(f"{key}: {value}")
    return None
