"""What keeps an optimizer whole: who may not use it now, and changes that nothing interrupts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

REENTERED = (
    "a function that a step called, such as a schedule, must not use its optimizer; nor must a "
    "signal handler that came while the optimizer was at work"
)
PAUSED = "within use_averaged_params the optimizer must not be used; leave the block first"
HELD = (
    "this process was forked while another thread was stepping the optimizer, "
    "so its copy of the state is torn; make it anew from a state dict"
)

KEPT = (
    "step got gradients, but accumulate has kept others for the next step; call step() without "
    "gradients first (to load a state drops them)"
)
NOTHING_KEPT = "step got no gradients, and accumulate was not called before"


def at_once(changes: Iterable[Callable[[], object]]) -> Callable[[], Any]:
    """Several changes as one: a function that makes them all, the first time that it is called.

    Python looks for signals between the steps of its own functions, and Ctrl-C can end each of
    these there. Within a function of C it does not look. This one is C and goes through the
    changes, and if they are calls of C as well, as ``partial(setattr, ...)`` is, then nothing
    comes in between: all of them are made, or none.
    """
    return partial(any, map(operator.call, changes))
