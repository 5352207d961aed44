# The lock of an optimizer; a part of _native.pyx.

cdef extern from *:
    """
    /* Without a GIL a guard lets one thread at a time at a few variables. It is not a critical
       section: that can be handed to a thread which waits, and if the process forks then, nobody
       in the child has it. Who is within a guard does nothing that lets the interpreter stop its
       thread, so a fork finds all guards open. With a GIL there is nothing to guard. */
    #ifdef Py_GIL_DISABLED
    #define new_guard() PyThread_allocate_lock()
    #define free_guard(guard) PyThread_free_lock(guard)
    #define enter(guard) ((void)PyThread_acquire_lock(guard, WAIT_LOCK))
    #define leave(guard) PyThread_release_lock(guard)
    #else
    #define new_guard() NULL
    #define free_guard(guard) ((void)(guard))
    #define enter(guard) ((void)(guard))
    #define leave(guard) ((void)(guard))
    #endif
    """
    PyThread_type_lock new_guard()
    void free_guard(PyThread_type_lock guard) noexcept
    void enter(PyThread_type_lock guard) noexcept
    void leave(PyThread_type_lock guard) noexcept

#: For each fork on the way from the first process to this one, the thread that went on.
cdef unsigned long *survivors = NULL
cdef Py_ssize_t n_forks = 0
cdef str held_message = HELD


def _note_fork():
    global n_forks
    resize(<void **>&survivors, (n_forks + 1) * sizeof(unsigned long))
    survivors[n_forks] = PyThread_get_thread_ident()
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

    The GIL guards what is in here, which costs a tenth of threading.RLock, or `guard` does. Who has
    to wait, which is rare, looks again every now and then. Nobody waits for a thread that was
    interrupted: a place is given up by the same `try` statement that was entered when it was taken.
    """

    def __cinit__(self):
        self.n_forks = n_forks
        self.guard = new_guard()

    def __dealloc__(self):
        free_guard(self.guard)

    @property
    def refusal(self):
        """Why nobody may use the optimizer now; who waited for the lock must look again."""
        enter(self.guard)
        reason = self.reason
        leave(self.guard)
        return reason

    @refusal.setter
    def refusal(self, str reason):
        enter(self.guard)
        self.reason = reason
        leave(self.guard)

    def hold(self):
        """What to take with ``with``; see _numpy.Lock."""
        cdef Hold hold = Hold()
        hold.lock = self
        return hold

    cdef int acquire(self) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        if not self.take(thread):
            self.wait(thread)
        return 0

    cdef bint take(self, unsigned long thread) except -1:
        """Take the lock if it is this thread's turn."""
        cdef bint taken = False, reentered = False
        enter(self.guard)
        if self.n_forks != n_forks:
            self.notice_forks()
        reason = self.reason
        if reason is None:
            if self.held:
                reentered = self.owner == thread
            elif self.first is None or self.first.thread == thread:
                self.held = taken = True
                self.owner = thread
        leave(self.guard)
        if reason is not None or reentered:
            raise RuntimeError(REENTERED if reentered else reason)
        return taken

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

    cdef void notice_forks(self) noexcept:
        """In a child only the thread that forked goes on.

        The others have no places any more, and if one of them had the lock, what it was changing
        is torn. A thread of the child that has the number of one of them is another one.
        """
        cdef Place place = self.first
        if self.held and not self.survived(self.owner):
            self.reason = held_message
        self.first = None
        while place is not None:
            if self.survived(place.thread):
                self.first = place
            place = place.next
        if self.first is not None:
            self.first.next = None
        self.n_forks = n_forks

    cdef bint survived(self, unsigned long thread) noexcept:
        """Whether it is this thread that went on at each fork of which the lock did not know."""
        cdef Py_ssize_t i
        for i in range(self.n_forks, n_forks):
            if survivors[i] != thread:
                return False
        return True

    cdef bint append(self, Place place) noexcept:
        """Put a place at the end of the queue, unless its thread has one."""
        cdef Place last
        cdef bint appended
        enter(self.guard)
        last = self.first
        while last is not None and last.next is not None and last.thread != place.thread:
            last = last.next
        appended = last is None or last.thread != place.thread
        if last is None:
            self.first = place
        elif appended:
            last.next = place
        leave(self.guard)
        return appended

    cdef void remove(self, Place place) noexcept:
        cdef Place before
        enter(self.guard)
        before = self.first
        if before is place:
            self.first = place.next
        else:
            while before.next is not place:
                before = before.next
            before.next = place.next
        leave(self.guard)

    cdef void release(self) noexcept:
        enter(self.guard)
        self.held = False
        leave(self.guard)


@cython.final
@cython.no_gc_clear
cdef class Hold:
    """The lock in one ``with`` block.

    From Python 3.14 on Ctrl-C can come after `__enter__` and before the block, which is then left
    without its end. What was made for the block goes then, and gives the lock back.
    """

    def __enter__(self):
        self.lock.acquire()
        self.is_held = True

    def __exit__(self, *_):
        self.is_held = False
        self.lock.release()

    def __dealloc__(self):
        if self.is_held:
            self.lock.release()
