# adam_step on plain arrays; a part of _native.pyx. All else goes the way through Arrays
# (functional.py), which mends or refuses it.

cdef int RULE = rules().index(ADAM.name)
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
    cdef bint suits_float32  # the options, that is
    cdef Py_ssize_t n_written  # of `written`, which is `unsorted` in order
    cdef Interval *unsorted
    cdef Interval *written
    cdef Py_ssize_t *places  # see `touches`

    def __dealloc__(self):
        free(self.arrays)
        free(self.batch.jobs)
        free(self.batch.constants)
        free(self.unsorted)
        free(self.written)
        free(self.places)

    cdef bint step(self, tuple columns, tuple grads, steps, tuple options, loss_scale) except -1:
        """No Python code runs here, so that nothing can change meanwhile."""
        cdef int64_t elements = 0
        cdef Py_ssize_t i
        self.reserve(len(grads))
        if not (
            self.take_options(options)
            and self.take_loss_scale(loss_scale)
            and self.take_arrays(columns, grads)
            and self.take_steps(steps, len(grads))
        ):
            return False
        for i in range(self.batch.n_jobs):
            elements += self.batch.jobs[i].size
        step_batch(&self.batch, elements, INT_MAX)
        return True

    cdef int reserve(self, Py_ssize_t n) except -1:
        if n > self.room:
            resize(<void **>&self.arrays, n * sizeof(fa_array))
            resize(<void **>&self.batch.jobs, n * sizeof(fa_job))
            resize(<void **>&self.batch.constants, n * fa_constants_size())
            resize(<void **>&self.unsorted, n * COLUMNS * sizeof(Interval))
            resize(<void **>&self.written, n * COLUMNS * sizeof(Interval))
            resize(<void **>&self.places, n * sizeof(Py_ssize_t))
            memset(self.places, 0, n * sizeof(Py_ssize_t))
            memset(self.batch.constants, 0, n * fa_constants_size())
            self.room = n
        memset(self.arrays, 0, n * sizeof(fa_array))
        self.batch.groups = &self.hyper
        self.batch.rule = RULE
        self.batch.n_jobs = 0
        return 0

    cdef bint take_options(self, tuple options) noexcept:
        """Whether they are plain numbers and flags in the ranges that _hyper.py checks."""
        lr, betas, eps, weight_decay, amsgrad, maximize, decoupled, epsilon_hat = options
        if type(betas) is not tuple or len(<tuple>betas) != 2:
            return False
        self.suits_float32 = True
        return (
            self.take_number(&self.hyper.lr, lr, INFINITY)
            and self.take_number(&self.hyper.beta1, (<tuple>betas)[0], 1)
            and self.take_number(&self.hyper.beta2, (<tuple>betas)[1], 1)
            and self.take_number(&self.hyper.eps, eps, INFINITY)
            and self.take_number(&self.hyper.weight_decay, weight_decay, INFINITY)
            and self.take_flag(&self.hyper.amsgrad, amsgrad)
            and self.take_flag(&self.hyper.maximize, maximize)
            and self.take_flag(&self.hyper.decoupled_weight_decay, decoupled)
            and self.take_flag(&self.hyper.epsilon_hat, epsilon_hat)
        )

    cdef inline bint take_number(self, double *to, value, double below) noexcept:
        if type(value) is float:
            to[0] = <double>value
        elif type(value) is int:
            to[0] = PyLong_AsDouble(value)
            PyErr_Clear()  # it is -1 then
        else:
            return False
        if not (to[0] < FLT_MAX and <float>to[0] < below):
            self.suits_float32 = False
        return 0 <= to[0] < below

    cdef inline bint take_flag(self, double *to, value) noexcept:
        to[0] = value is True
        return value is True or value is False

    cdef inline bint take_loss_scale(self, value) noexcept:
        if type(value) is not float:
            return False
        self.batch.loss_scale = <double>value
        return 1 / FLT_MAX <= self.batch.loss_scale <= FLT_MAX

    cdef bint take_arrays(self, tuple columns, tuple grads) except -1:
        """Whether C may walk all of them, and what it writes lies apart from all else."""
        cdef Py_ssize_t i, k, n_columns = len(columns), count = 0
        cdef PyObject **items[COLUMNS]
        cdef PyObject **grad_items = PySequence_Fast_ITEMS(grads)
        cdef cnp.ndarray array
        cdef fa_array *taken
        cdef fa_job *job
        cdef Layout layout
        for k in range(n_columns):
            items[k] = PySequence_Fast_ITEMS(columns[k])
        for i in range(len(grads)):
            taken = &self.arrays[i]
            if not is_writable_array(items[0][i]):
                return False
            array = <cnp.ndarray>items[0][i]
            layout = layout_of(array)
            taken.dtype = real_dtype(array)
            if taken.dtype < 0 or not layout.orders or not is_walked_as(array, &layout):
                return False
            if taken.dtype == FA_FLOAT32 and not self.suits_float32:
                return False
            taken.size = cnp.PyArray_SIZE(array) * reals(array)
            taken.streams.param = self.note_written(cnp.PyArray_DATA(array), taken, &count)
            for k in range(1, n_columns):
                if not is_writable_array(items[k][i]):
                    return False
                array = <cnp.ndarray>items[k][i]
                if not is_walked_as(array, &layout):
                    return False
                taken.streams.state[k - 1] = self.note_written(cnp.PyArray_DATA(array), taken, &count)
            if grad_items[i] == <PyObject *>None:
                continue
            if type(<object>grad_items[i]) is not cnp.ndarray:
                return False
            array = <cnp.ndarray>grad_items[i]
            if not is_walked_as(array, &layout):
                return False
            job = &self.batch.jobs[self.batch.n_jobs]
            self.batch.n_jobs += 1
            job.array = taken
            job.grad = cnp.PyArray_DATA(array)
            job.codec = FA_PLAIN
            job.size = taken.size
            job.rows = NULL
        if count != self.n_written and not self.sort_written(count):
            return False
        for i in range(self.batch.n_jobs):
            job = &self.batch.jobs[i]
            if touches(
                self.written, self.n_written, <uintptr_t>job.grad,
                job.size * fa_real_size(job.array.dtype), &self.places[i],
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
        self.n_written = 0  # `written` is what these are, whether they are apart or not
        memcpy(self.written, self.unsorted, count * sizeof(Interval))
        qsort(self.written, count, sizeof(Interval), compare_starts)
        for i in range(1, count):
            if self.written[i].start < self.written[i - 1].end:
                return False
        self.n_written = count
        return True

    cdef bint take_steps(self, steps, Py_ssize_t n) except -1:
        """Whether they are step numbers, one for all arrays or one for each."""
        cdef Py_ssize_t i
        cdef int64_t step = 0
        cdef bint each = type(steps) is tuple
        if each and len(<tuple>steps) != n:
            return False
        for i in range(n):
            if each or i == 0:
                number = (<tuple>steps)[i] if each else steps
                if type(number) is not int or not 1 <= number < 2**62:
                    return False
                step = number
            self.arrays[i].step = step - 1
        return True


cdef Direct spare = None  # the room of the last call, but while a call has it
cdef PyThread_type_lock spare_guard = new_guard()


def adam_step(tuple columns, grads, steps, tuple options, loss_scale):
    """Step plain arrays at once; False, and nothing is done, if anything is unusual.

    `columns` are the parameters and each kind of state, arrays or sequences of arrays, and
    `options` the values of ADAM.options.
    """
    global spare
    cdef Direct direct
    if type(columns[0]) is cnp.ndarray:
        if grads is None:
            return False
        grads = (grads,)
        columns = tuple([(array,) for array in columns])
    else:  # into tuples of one's own: nobody can shorten them while they are walked
        if not is_sequence(grads):
            return False
        taken = []
        for column in columns:
            if not is_sequence(column):
                return False
            taken.append(tuple(column))
        grads, columns = tuple(grads), tuple(taken)
    if type(steps) is list:
        steps = tuple(steps)
    for column in columns:
        if len(column) != len(grads):
            return False
    enter(spare_guard)
    direct, spare = spare, None
    leave(spare_guard)
    if direct is None:
        direct = Direct()
    try:
        return direct.step(columns, grads, steps, options, loss_scale)
    finally:
        enter(spare_guard)
        spare = direct
        leave(spare_guard)


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
