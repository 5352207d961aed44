"""Printing for `python -m fastadam`, whose reader may go before the end, as `head` does."""

from __future__ import annotations

import errno
import os
import sys


def say(text: str = "", end: str = "\n") -> None:
    """Print and flush; do nothing if nobody reads it any more."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it may lack letters of a path
    printable = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(printable, end=end, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # the latter is what Windows says
            raise
        # Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """Print to stderr, if there is one; given None, `print` would take stdout."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)
