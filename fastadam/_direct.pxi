# adam_step on plain arrays; a part of _native.pyx. All else goes the way through Arrays
# (functional.py), which mends or refuses it.

STRICT = _hyper.Traits(ADAM.options, float32=True, params=())  # what suits these suits all

cdef int RULE = rule_number(ADAM.name)
cdef enum:
    COLUMNS = 1 + FA_STATES  # parameters and their state


@cython.final
cdef class Direct:
    """Room for a call, kept for the next one. It holds addresses, but no arrays.

    That no two written arrays overlap is found by sorting them, unless all lie where
    the last call's lay.
    """

    cdef Py_ssize_t room
    cdef fa_batch batch
    cdef fa_array *arrays
    cdef fa_hyper hyper
    cdef tuple options  # from which `hyper` was made, if they cannot change
    cdef Py_ssize_t n_written  # of `written`, which is `unsorted` in order
    cdef Interval *unsorted
    cdef Interval *written
    cdef Py_ssize_t *places  # see `touches`

    def __dealloc__(self):
        free(self.arrays)
        free(self.batch.scratch)
        free(self.unsorted)
        free(self.written)
        free(self.places)

    cdef bint step(self, tuple columns, grads, steps, tuple options, loss_scale) except -1:
        cdef Py_ssize_t i
        cdef int64_t elements = 0
        self.reserve(len(grads))
        # Only the first can run other people's code, so it comes before the addresses.
        if not (
            self.take_options(options, loss_scale)
            and self.take_arrays(columns, grads)
            and self.take_steps(steps)
        ):
            return False
        for i in range(self.batch.n):
            elements += self.arrays[i].size
        held = None
        if elements >= KEEP_GIL_BELOW:  # other threads can change the lists meanwhile
            held = tuple(grads), *[tuple(column) for column in columns]
        step_batch(&self.batch, elements, INT_MAX)
        return True

    cdef int reserve(self, Py_ssize_t n) except -1:
        if n > self.room:
            resize(<void **>&self.arrays, n * sizeof(fa_array))
            resize(<void **>&self.batch.scratch, n * sizeof(fa_scalars))
            resize(<void **>&self.unsorted, n * COLUMNS * sizeof(Interval))
            resize(<void **>&self.written, n * COLUMNS * sizeof(Interval))
            resize(<void **>&self.places, n * sizeof(Py_ssize_t))
            memset(self.places, 0, n * sizeof(Py_ssize_t))
            self.room = n
        memset(self.arrays, 0, n * sizeof(fa_array))
        self.batch.arrays = self.arrays
        self.batch.groups = &self.hyper
        self.batch.rule = RULE
        self.batch.n = n
        return 0

    cdef bint take_options(self, tuple options, loss_scale):
        """Whether they suit every dtype."""
        cdef Py_ssize_t i
        try:
            self.hyper.loss_scale = 1.0
            if type(loss_scale) is not float or <double>loss_scale != 1.0:
                self.hyper.loss_scale = _hyper.check_loss_scale(loss_scale, (STRICT,))
            if self.options is not None:
                for i in range(len(options)):
                    if options[i] is not self.options[i]:
                        break
                else:
                    return True
            self.options = None
            hyper = _hyper.check_group(dict(zip(ADAM.options, options)), STRICT)
        except Exception:
            return False
        if callable(hyper.lr):
            return False
        fill(&self.hyper, hyper)
        if _hyper.are_fixed(options):
            self.options = options
        return True

    cdef bint take_arrays(self, tuple columns, grads):
        """Whether C may walk all of them, and what it writes lies apart from all else."""
        cdef Py_ssize_t i, k, n_columns = len(columns), count = 0
        cdef PyObject **items[COLUMNS]
        cdef PyObject **grad_items = PySequence_Fast_ITEMS(grads)
        cdef cnp.ndarray array
        cdef fa_array *taken
        cdef Layout layout
        for k in range(n_columns):
            items[k] = PySequence_Fast_ITEMS(columns[k])
        for i in range(self.batch.n):
            taken = &self.arrays[i]
            if not is_writable_array(items[0][i]):
                return False
            array = <cnp.ndarray>items[0][i]
            layout = layout_of(array)
            taken.dtype = real_dtype(array)
            if taken.dtype < 0 or not layout.orders or not is_walked_as(array, &layout):
                return False
            taken.size = cnp.PyArray_SIZE(array) * reals(array)
            taken.param = self.note_written(cnp.PyArray_DATA(array), taken, &count)
            for k in range(1, n_columns):
                if not is_writable_array(items[k][i]):
                    return False
                array = <cnp.ndarray>items[k][i]
                if not is_walked_as(array, &layout):
                    return False
                taken.state[k - 1] = self.note_written(cnp.PyArray_DATA(array), taken, &count)
            if grad_items[i] != <PyObject *>None:
                if type(<object>grad_items[i]) is not cnp.ndarray:
                    return False
                array = <cnp.ndarray>grad_items[i]
                if not is_walked_as(array, &layout):
                    return False
                taken.grad = cnp.PyArray_DATA(array)
        if count != self.n_written and not self.sort_written(count):
            return False
        for i in range(self.batch.n):
            taken = &self.arrays[i]
            if taken.grad != NULL and touches(
                self.written, self.n_written, <uintptr_t>taken.grad,
                taken.size * fa_real_size(taken.dtype), &self.places[i],
            ):
                return False
        return True

    cdef inline void *note_written(self, void *data, const fa_array *taken, Py_ssize_t *count) noexcept:
        cdef Interval *interval = &self.unsorted[count[0]]
        cdef uintptr_t start = <uintptr_t>data
        cdef uintptr_t end = start + taken.size * fa_real_size(taken.dtype)
        if start != end:
            if interval.start != start or interval.end != end:
                interval.start, interval.end = start, end
                self.n_written = 0
            count[0] += 1
        return data

    cdef bint sort_written(self, Py_ssize_t count) noexcept:
        """False if any overlap."""
        cdef Py_ssize_t i
        memcpy(self.written, self.unsorted, count * sizeof(Interval))
        qsort(self.written, count, sizeof(Interval), compare_starts)
        for i in range(1, count):
            if self.written[i].start < self.written[i - 1].end:
                return False
        self.n_written = count
        return True

    cdef bint take_steps(self, steps):
        """Whether they are step numbers, one for all arrays or one for each."""
        cdef Py_ssize_t i
        cdef int64_t step = 0
        cdef bint each = is_sequence(steps)
        if each and len(steps) != self.batch.n:
            return False
        for i in range(self.batch.n):
            if each or i == 0:
                number = <object>PySequence_Fast_ITEMS(steps)[i] if each else steps
                if type(number) is not int or not 1 <= number < 2**62:
                    return False
                step = number
            self.arrays[i].step = step - 1
        return True


cdef Direct spare = None


def adam_step(tuple columns, grads, steps, tuple options, loss_scale):
    """Step plain arrays at once; False, and nothing is done, if anything is unusual.

    `columns` are the parameters and each kind of state, arrays or sequences of arrays, and
    `options` the values of ADAM.options.
    """
    global spare
    cdef Direct direct
    if type(columns[0]) is cnp.ndarray:
        grads = (grads,)
        columns = tuple([(array,) for array in columns])
    if not is_sequence(grads):
        return False
    for column in columns:
        if not is_sequence(column) or len(column) != len(grads):
            return False
    direct = spare if spare is not None else Direct()
    spare = None  # another thread may call while this one has given away the GIL
    try:
        return direct.step(columns, grads, steps, options, loss_scale)
    finally:
        spare = direct


cdef inline bint is_sequence(value) noexcept:
    return type(value) is list or type(value) is tuple


cdef int compare_starts(const void *a, const void *b) noexcept nogil:
    cdef uintptr_t first = (<const Interval *>a).start, second = (<const Interval *>b).start
    return (first > second) - (first < second)


cdef inline bint is_writable_array(PyObject *item) noexcept:
    return (
        type(<object>item) is cnp.ndarray
        and cnp.PyArray_FLAGS(<cnp.ndarray>item) & cnp.NPY_ARRAY_WRITEABLE
    )
