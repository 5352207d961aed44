"""Notice forks: a child's locks may be held by threads that it does not have."""

import os

generation = 0  # how many forks lie between this process and the one that was started

HELD = (
    "this process was forked while another thread was stepping the optimizer, "
    "so its copy of the state is torn; make it anew from a state dict"
)


def _count() -> None:
    global generation
    generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)
