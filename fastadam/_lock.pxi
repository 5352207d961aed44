# The lock of an optimizer; a part of _native.pyx.

#: For each fork on the way from the first process to this one, the thread that went on.
cdef list survivors = []


def _note_fork():
    survivors.append(PyThread_get_thread_ident())


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

    The GIL guards what is in here, which costs a tenth of threading.RLock. Who has to wait, which
    is rare, looks again every now and then. Nobody waits for a thread that was interrupted: a
    place is given up by the same `try` statement that was entered when it was taken.
    """

    def __cinit__(self):
        self.n_forks = PyList_GET_SIZE(survivors)

    def hold(self):
        """What to take with ``with``; see _numpy.Lock."""
        return self

    cdef int acquire(self) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        if self.n_forks != PyList_GET_SIZE(survivors):
            self.notice_forks()
        if self.refusal is None and (self.held or self.first is not None):
            if self.held and self.owner == thread:
                raise RuntimeError(REENTERED)
            self.wait(thread)
        if self.refusal is not None:
            raise RuntimeError(self.refusal)
        self.held = True
        self.owner = thread
        return 0

    cdef int wait(self, unsigned long thread) except -1:
        """Wait until it is this thread's turn."""
        cdef double pause, waited = 0.0
        cdef Place place = None
        if not self.has_place(thread):  # or a signal handler came while it waited
            place = Place()
            place.thread = thread
            self.append(place)
        try:
            while self.refusal is None and (self.held or self.first.thread != thread):
                pause = min(max(waited / 8, 1e-4), 1e-2)
                sleep(pause)
                waited += pause
                PyErr_CheckSignals()
                if self.n_forks != PyList_GET_SIZE(survivors):
                    self.notice_forks()
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
            self.refusal = HELD
        self.first = None
        while place is not None:
            if self.survived(place.thread):
                self.first = place
            place = place.next
        if self.first is not None:
            self.first.next = None
        self.n_forks = PyList_GET_SIZE(survivors)
        return 0

    cdef bint survived(self, unsigned long thread) except -1:
        """Whether it is this thread that went on at each fork of which the lock did not know."""
        cdef Py_ssize_t i
        for i in range(self.n_forks, PyList_GET_SIZE(survivors)):
            if <unsigned long>survivors[i] != thread:
                return False
        return True

    cdef bint has_place(self, unsigned long thread) noexcept:
        cdef Place place = self.first
        while place is not None and place.thread != thread:
            place = place.next
        return place is not None

    cdef void append(self, Place place) noexcept:
        cdef Place last = self.first
        if last is None:
            self.first = place
            return
        while last.next is not None:
            last = last.next
        last.next = place

    cdef void remove(self, Place place) noexcept:
        cdef Place before = self.first
        if before is place:
            self.first = place.next
            return
        while before.next is not place:
            before = before.next
        before.next = place.next

    cdef void release(self) noexcept:
        self.held = False

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()
