# The lock of an optimizer; a part of _native.pyx.

cdef int64_t forks = 0  # between this process and the one that was started


def _count_fork():
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


@cython.final
cdef class Lock:
    """A fair lock that its thread may take again: a signal handler may save what it interrupts.

    Threads are served in the order in which they come. The GIL guards the numbers, which
    costs a tenth of threading.RLock; those that have to wait, which is rare, poll.
    """

    cdef unsigned long owner
    cdef int depth
    cdef bint borrowed  # held on the ticket with which this thread waits, beneath a signal handler
    cdef int64_t serving, next_ticket, generation
    cdef set abandoned  # tickets whose threads were interrupted while they waited
    cdef dict waiting  # {thread: ticket}

    def __cinit__(self):
        self.abandoned = set()
        self.waiting = {}
        self.generation = forks

    cdef int acquire(self) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        cdef int64_t ticket
        if self.generation != forks:
            self.after_fork(thread)
        if self.depth and self.owner == thread:
            self.depth += 1
            return 0
        if self.waiting and thread in self.waiting:
            while self.serving != self.waiting[thread]:
                sleep(1e-4)
                PyErr_CheckSignals()
            self.borrowed = True
        else:
            ticket = self.next_ticket
            self.next_ticket += 1
            if self.serving != ticket:
                self.wait(thread, ticket)
        self.owner = thread
        self.depth = 1
        return 0

    cdef int wait(self, unsigned long thread, int64_t ticket) except -1:
        self.waiting[thread] = ticket
        try:
            while self.serving != ticket:
                sleep(1e-4)
                PyErr_CheckSignals()
        except BaseException:
            if self.serving == ticket:
                self.serve_next()
            else:
                self.abandoned.add(ticket)
            raise
        finally:
            del self.waiting[thread]
        return 0

    cdef int after_fork(self, unsigned long thread) except -1:
        """In a child: those that waited are not there; nor is who held it, if it was another."""
        if self.depth and self.owner != thread:
            raise RuntimeError(_fork.HELD)
        self.abandoned.clear()
        self.waiting.clear()
        self.next_ticket = self.serving + (1 if self.depth else 0)
        self.generation = forks
        return 0

    cdef void serve_next(self) noexcept:
        self.serving += 1
        while self.serving in self.abandoned:
            self.abandoned.discard(self.serving)
            self.serving += 1

    cdef void release(self) noexcept:
        self.depth -= 1
        if self.depth == 0:
            if self.borrowed:
                self.borrowed = False
            else:
                self.serve_next()

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()
