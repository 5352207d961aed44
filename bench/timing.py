"""Time several functions interleaved, so that a busy machine disturbs all alike."""

import time

import numpy as np


def measure(functions, rounds=15, seconds=0.02):
    """Seconds a call for each function of a dict: {name: array of one figure a round}.

    Each round times every function once, over as many calls as take `seconds`.
    """
    repeats = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        once = time.perf_counter() - start
        repeats[name] = max(1, min(100_000, int(seconds / max(once, 1e-7))))
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            calls = range(repeats[name])
            start = time.perf_counter()
            for _ in calls:
                function()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: np.array(values) for name, values in times.items()}


def ratio(times, slow, fast):
    """The median over rounds of how many times longer `slow` took than `fast`."""
    return float(np.median(times[slow] / times[fast]))
