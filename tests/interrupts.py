"""Interrupts at every moment at which a signal could raise one."""

import contextlib
import dis
import inspect
import itertools
import os
import sys
from functools import cache

import numpy as np

import fastadam


@cache
def looks(code):
    """{offset: the next one} of the instructions at whose end Python looks for signals."""
    instructions = list(dis.get_instructions(code))
    return {
        one.offset: other.offset
        for one, other in itertools.pairwise(instructions)
        if one.opname.startswith(("RESUME", "JUMP_BACKWARD", "CALL"))
        and "INTRINSIC" not in one.opname
    }


@cache
def handlers(code):
    """{offset: the offset of the code that handles an exception there}"""
    return {
        offset: entry.target
        for entry in dis._parse_exception_table(code)
        for offset in range(entry.start, entry.end, 2)
    }


#: In whose functions there are interrupts: fastadam's own, and those that end its `with` blocks.
FILES = (
    os.path.dirname(fastadam.__file__),
    contextlib.__file__,
    inspect.getfile(np.errstate.__enter__),
)


class Interrupt:
    """Raises KeyboardInterrupt at the n-th moment at which a signal could."""

    def __init__(self, n):
        self.n, self.passed = n, 0
        self.last = {}  # {frame: the offset of its last instruction}

    def is_left_alone(self, frame):
        """The NumPy backend does not promise whole steps."""
        while frame is not None and frame.f_code.co_name != "_run":
            frame = frame.f_back
        return frame is not None

    def count(self):
        self.passed += 1
        if self.passed == self.n:
            raise KeyboardInterrupt

    def trace(self, frame, event, argument):
        if event == "call":
            if not frame.f_code.co_filename.startswith(FILES) or self.is_left_alone(frame):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            last, now = self.last.get(frame), frame.f_lasti
            if last in looks(frame.f_code) and not self.leaves_a_block(frame.f_code, last):
                self.count()
            self.last[frame] = now
        elif event == "return":
            self.last.pop(frame, None)  # and with it what the frame held
        return self.trace

    def leaves_a_block(self, code, offset):
        """Whether what is raised by an instruction is handled elsewhere than after it."""
        handler = handlers(code)
        return handler.get(offset) != handler.get(looks(code)[offset])

    def profile(self, frame, event, argument):
        """The last call of a block raises, since after it would be too late."""
        del argument  # what was called: no signal handler's frame has it
        caller = frame.f_back if event == "return" else frame
        if (
            event in ("return", "c_return")
            and caller in self.last
            and caller.f_lasti in looks(caller.f_code)
            and self.leaves_a_block(caller.f_code, caller.f_lasti)
        ):
            self.count()


def interrupted(n, call, rehearse):
    """Call, but for an interrupt; how many moments there were.

    Python 3.13 traces the instructions of a function only from its second call on. So there the
    same is done once before.
    """
    before = sys.gettrace(), sys.getprofile()
    interrupt = Interrupt(0)
    sys.setprofile(interrupt.profile)
    sys.settrace(interrupt.trace)
    try:
        if sys.version_info >= (3, 13):
            rehearse()
        interrupt.n, interrupt.passed = n, 0
        call()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return interrupt.passed
