"""Time several functions interleaved, so that a busy machine disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastadam._types import Array

Times = dict[str, Array]


def measure(
    functions: Mapping[str, Callable[[], Any]], rounds: int = 15, seconds: float = 0.02
) -> Times:
    """Seconds a call of each function: {name: array of one figure a round}.

    Each round times every function once, over as many calls as take `seconds`.
    """
    repeats = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        once = time.perf_counter() - start
        repeats[name] = max(1, min(100_000, int(seconds / max(once, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            calls = range(repeats[name])
            start = time.perf_counter()
            for _ in calls:
                function()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: np.array(values) for name, values in times.items()}


def ratio(times: Times, slow: str, fast: str) -> float:
    """The median over rounds of how many times longer `slow` took than `fast`."""
    return float(np.median(times[slow] / times[fast]))
