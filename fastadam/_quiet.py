"""Arithmetic without NumPy's warnings."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
T = TypeVar("T")

_context = contextvars.Context()
_context.run(np.seterr, all="ignore")


def quietly(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what only calculates, and let overflow and the like pass in silence.

    The setting belongs to the context of this call. That of ``np.errstate`` would stay if Ctrl-C
    came at its end.
    """
    return _context.copy().run(function, *args, **kwargs)
