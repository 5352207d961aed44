# The lock of an optimizer; a part of _native.pyx.

#: For each fork on the way from the first process to this one, the thread that went on.
cdef list survivors = []
cdef Py_ssize_t n_forks = 0  # how many there were; threads that look at the list disturb each other


def _note_fork():
    global n_forks
    survivors.append(PyThread_get_thread_ident())
    n_forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@cython.final
cdef class Place:
    """A thread's place in the queue before a lock."""


@cython.final
cdef class Lock:
    """Who may use an optimizer: one thread at a time, in the order in which they come.

    A thread that has it and asks again gets an error: it is in a function that a step called, or
    in a signal handler. A signal handler that came while its thread was waiting gets it when it
    is that thread's turn.

    The GIL guards what is in here, which costs a tenth of threading.RLock; without a GIL critical
    sections do, in which no other code runs. Who has to wait, which is rare, looks again every now
    and then. Nobody waits for a thread that was interrupted: a place is given up by the same `try`
    statement that was entered when it was taken.
    """

    def __cinit__(self):
        self.n_forks = n_forks

    @property
    def refusal(self):
        """Why nobody may use the optimizer now; who waited for the lock must look again."""
        with cython.critical_section(self):
            return self.reason

    @refusal.setter
    def refusal(self, str reason):
        with cython.critical_section(self):
            self.reason = reason

    def hold(self):
        """What to take with ``with``; see _numpy.Lock."""
        return self

    cdef int acquire(self) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        if not self.take(thread):
            self.wait(thread)
        return 0

    cdef bint take(self, unsigned long thread) except -1:
        """Take the lock if it is this thread's turn."""
        with cython.critical_section(self):
            if self.n_forks != n_forks:
                self.notice_forks()
            if self.reason is not None:
                raise RuntimeError(self.reason)
            if self.held:
                if self.owner == thread:
                    raise RuntimeError(REENTERED)
                return False
            if self.first is not None and self.first.thread != thread:
                return False
            self.held = True
            self.owner = thread
            return True

    cdef int wait(self, unsigned long thread) except -1:
        """Take the lock when it is this thread's turn."""
        cdef double pause, waited = 0.0
        cdef Place place = Place()
        place.thread = thread
        if not self.append(place):
            place = None  # a signal handler came while its thread waited
        try:
            while not self.take(thread):
                pause = min(max(waited / 8, 1e-4), 1e-2)
                sleep(pause)
                waited += pause
                PyErr_CheckSignals()
        finally:
            if place is not None:
                self.remove(place)
        return 0

    cdef int notice_forks(self) except -1:
        """In a child only the thread that forked goes on.

        The others have no places any more, and if one of them had the lock, what it was changing
        is torn. A thread of the child that has the number of one of them is another one.
        """
        cdef Place place = self.first
        if self.held and not self.survived(self.owner):
            self.reason = HELD
        self.first = None
        while place is not None:
            if self.survived(place.thread):
                self.first = place
            place = place.next
        if self.first is not None:
            self.first.next = None
        self.n_forks = n_forks
        return 0

    cdef bint survived(self, unsigned long thread) except -1:
        """Whether it is this thread that went on at each fork of which the lock did not know."""
        cdef Py_ssize_t i
        for i in range(self.n_forks, n_forks):
            if <unsigned long>survivors[i] != thread:
                return False
        return True

    cdef bint append(self, Place place) noexcept:
        """Put a place at the end of the queue, unless its thread has one."""
        cdef Place last
        with cython.critical_section(self):
            last = self.first
            if last is None:
                self.first = place
                return True
            while last.next is not None and last.thread != place.thread:
                last = last.next
            if last.thread == place.thread:
                return False
            last.next = place
            return True

    cdef void remove(self, Place place) noexcept:
        cdef Place before
        with cython.critical_section(self):
            before = self.first
            if before is place:
                self.first = place.next
                return
            while before.next is not place:
                before = before.next
            before.next = place.next

    cdef void release(self) noexcept:
        with cython.critical_section(self):
            self.held = False

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()
