# Steps on torch's tensors without a Python call for each; a part of _native.pyx. All else
# goes the way through Arrays (torch.py), which mends or refuses it.
#
# DLPack's exchange API (dlpack.h, 1.3; dmlc.github.io/dlpack) has a function that looks at
# where and how a tensor lies. It takes 20 ns, or 57 where only Python owns the tensor, as it
# mostly does parameters and state; any of a tensor's own methods takes 60 or more.

cdef struct DLTensor:
    void *data
    int32_t device_type, device_number, ndim
    uint8_t code, bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides  # in elements
    uint64_t byte_offset

cdef struct ExchangeAPI:
    uint32_t major, minor
    void *others[4]
    int (*look_at)(PyObject *object, DLTensor *tensor) noexcept  # -1: an exception is set
    void *stream

cdef enum:
    DL_VERSION = 1
    DL_CPU = 1
    DL_FLOAT = 2
    DL_COMPLEX = 5
    SHAPED = 1 + FA_STATES  # a parameter and its state
    COUNTS = 2  # the step count and NAdam's product of momenta

cdef DLTensor COUNT_FORM
COUNT_FORM.code, COUNT_FORM.bits, COUNT_FORM.ndim = DL_FLOAT, 64, 0

# A parameter's tensors as they were when the batch was made.
cdef struct Row:
    DLTensor form  # of the shaped ones
    PyObject *tensors[SHAPED + COUNTS]  # NULL where there is none
    void *data[SHAPED + COUNTS]
    bint is_odd  # whether a gradient needed mending; to find out can take torch a millisecond


@cython.final
cdef class Tensors:
    """A batch whose arrays are torch's, to be stepped again while these are as they were.

    Parameters
    ----------
    batch : Batch
        Of the parameters that had a gradient; its arrays are the tensors' memory.
    exchange : capsule
        ``torch.Tensor.__dlpack_c_exchange_api__``
    grad_type : type
        Of gradients.
    params : list of tensors
        Those of all groups.
    rows : list
        For each, None if it had no gradient, or a tuple: the parameter, the rule's states,
        the step count and the product of momenta, None where there is none.
    state : dict
        The optimizer's.
    read_group, read_grad : callable
        ``read_group(group, names)`` gives a param group's options for `_hyper.check_group`,
        ``read_grad(name, tensor)`` an ndarray or RowGrad.
    """

    cdef Batch batch
    cdef ExchangeAPI *api
    cdef object grad_type, state, read_group, read_grad
    cdef list params, kept
    cdef list seen_groups, seen_state, seen_entries  # see `has_items`
    cdef Py_ssize_t *places  # of the parameters in the batch, or -1
    cdef Row *rows
    cdef int64_t *lengths  # of the rows' forms: shapes and strides

    def __cinit__(
        self, Batch batch, exchange, grad_type, list params, list rows, state, read_group, read_grad
    ):
        cdef Py_ssize_t i, n = 0
        cdef int64_t *lengths
        self.batch = batch
        self.api = <ExchangeAPI *>PyCapsule_GetPointer(exchange, "dlpack_exchange_api")
        if self.api.major != DL_VERSION or self.api.look_at == NULL:
            raise NotImplementedError("another version of DLPack's exchange API")
        self.grad_type, self.state = grad_type, state
        self.read_group, self.read_grad = read_group, read_grad
        self.params = params
        self.kept = [row for row in rows if row is not None]
        self.seen_groups = [[] for _ in range(batch.n_groups)]
        self.seen_state = items_of(state)
        self.seen_entries = [items_of(entry) for entry in state.values()]
        self.places = <Py_ssize_t *>allocate(len(params), sizeof(Py_ssize_t))
        self.rows = <Row *>allocate(batch.n, sizeof(Row))
        self.lengths = lengths = <int64_t *>allocate(
            2 * sum([row[0].ndim for row in self.kept]), sizeof(int64_t)
        )
        for i, row in enumerate(rows):
            self.places[i] = -1
            if row is not None:
                self.places[i] = n
                self.note(&self.rows[n], row, &lengths)
                n += 1

    def __dealloc__(self):
        free(self.places)
        free(self.rows)
        free(self.lengths)

    cdef int note(self, Row *row, tuple tensors, int64_t **room) except -1:
        cdef Py_ssize_t k
        cdef DLTensor found
        cdef size_t size
        for k in reversed(range(SHAPED + COUNTS)):
            if tensors[k] is not None:
                row.tensors[k] = <PyObject *>tensors[k]
                if self.api.look_at(row.tensors[k], &found) != 0:
                    return -1
                row.data[k] = found.data
        row.form = found  # of the parameter, which came last
        size = found.ndim * sizeof(int64_t)
        row.form.shape = <int64_t *>memcpy(room[0], found.shape, size)
        row.form.strides = <int64_t *>memcpy(room[0] + found.ndim, found.strides, size)
        room[0] += 2 * found.ndim
        return 0

    def step(self, list groups, bint is_shared, int most_threads):
        """One step; False, and nothing is done, if anything changed or is unusual.

        The state is looked at only if others had it, or parts of it, since the last step.
        """
        try:
            if not (
                self.take_groups(groups)
                and (not is_shared or self.is_state_same())
                and self.take_all(groups)
            ):
                return False
            step_batch(&self.batch.batch, self.batch.elements, most_threads)
            self.write_counts()
            return True
        finally:
            self.batch.release()

    cdef bint take_all(self, list groups) except -1:
        cdef list odd = [], again = []
        if not self.take(groups, odd):
            return False
        if not odd:
            return True
        mended = []
        for i, grad in odd:
            self.rows[<Py_ssize_t>i].is_odd = True
            array = self.read_grad(self.batch.arrays.name(i), grad)
            mended.append((i, self.batch.mended(i, array)))
        # As in Batch.take_all.
        self.batch.release()
        if not self.take(groups, again) or [i for i, _ in again] != [i for i, _ in odd]:
            return False
        for i, array in mended:
            self.batch.take_mended(i, array)
        return True

    def is_state_shared(self):
        """Whether others than the optimizer hold the state, or parts of it."""
        cdef Py_ssize_t i, k
        # Besides them: this object, twice for tensors, and what they lie in.
        if Py_REFCNT(<PyObject *>self.state) != 2:
            return True
        for i in range(PyList_GET_SIZE(self.seen_entries)):
            if Py_REFCNT(PyList_GET_ITEM(self.seen_state, 2 * i + 1)) != 2:
                return True
        for i in range(self.batch.n):
            for k in range(1, SHAPED + COUNTS):
                if self.rows[i].tensors[k] != NULL and Py_REFCNT(self.rows[i].tensors[k]) != 3:
                    return True
        return False

    cdef bint take_groups(self, list groups) except -1:
        cdef Py_ssize_t i
        if len(groups) != self.batch.n_groups:
            return False
        for i in range(self.batch.n_groups):
            group = groups[i]
            if has_items(group, self.seen_groups[i]):
                continue
            traits = self.batch.arrays.traits[i]
            options = self.read_group(group, traits.options)
            if any([options[key] for key in traits.lacking]):
                return False
            options["params"] = traits.params
            fill(&self.batch.c_groups[i], _hyper.check_group(options, traits))
            fixed = _hyper.are_fixed([group[key] for key in traits.options])
            self.seen_groups[i] = items_of(group) if fixed else []
        return True

    cdef bint is_state_same(self) except -1:
        """Whether there are the same tensors in the same places, and the last step's counts."""
        cdef Py_ssize_t i, k
        cdef double *count
        if not has_items(self.state, self.seen_state):
            return False
        for i in range(PyList_GET_SIZE(self.seen_entries)):
            if not has_items(self.seen_state[2 * i + 1], self.seen_entries[i]):
                return False
        for i in range(self.batch.n):
            for k in range(1, SHAPED + COUNTS):
                if not self.is_where_it_was(&self.rows[i], k):
                    return False
            for k in range(COUNTS):
                count = <double *>self.rows[i].data[SHAPED + k]
                if count != NULL and count[0] != self.count(i, k):
                    return False
        return True

    cdef bint take(self, list groups, list odd) except -1:
        """Take the gradients that C may walk; the others are added to `odd`.

        False if a parameter is not as it was.
        """
        cdef Py_ssize_t i = 0, place
        for group in groups:
            for param in group["params"]:
                if i == PyList_GET_SIZE(self.params) or param is not self.params[i]:
                    return False
                place = self.places[i]
                i += 1
                grad = param.grad
                if grad is None:
                    continue
                if place < 0 or not self.is_where_it_was(&self.rows[place], 0):
                    return False
                if not self.take_grad(place, grad):
                    odd.append((place, grad))
                elif self.may_be_lazy(place) and (param.is_conj() or param.is_neg()):
                    return False
        return i == PyList_GET_SIZE(self.params)

    cdef bint take_grad(self, Py_ssize_t i, object grad) except -1:
        """Whether C may walk the gradient along with its parameter; then it is taken."""
        cdef fa_array *array = &self.batch.c_arrays[i]
        cdef int64_t item = fa_real_size(array.dtype)
        cdef void *data
        if (
            self.rows[i].is_odd
            or type(grad) is not self.grad_type
            or not self.finds(<PyObject *>grad, &self.rows[i].form, &data)
            or (array.size and (data == NULL or <uintptr_t>data % item))
            or touches(
                self.batch.written, self.batch.n_written, <uintptr_t>data, array.size * item,
                &self.batch.slots[i].place,
            )
            or (self.may_be_lazy(i) and (grad.is_conj() or grad.is_neg()))
        ):
            return False
        Py_INCREF(grad)
        self.batch.slots[i].grad = <PyObject *>grad
        array.grad = data
        return True

    cdef inline bint may_be_lazy(self, Py_ssize_t i) noexcept:
        """Whether its tensors may be conjugated or negated only when they are read.

        The imaginary part of a conjugated tensor is; its strides show it, if it has two elements.
        """
        return self.rows[i].form.code == DL_COMPLEX or self.batch.c_arrays[i].size == 1

    cdef inline bint is_where_it_was(self, const Row *row, Py_ssize_t k) noexcept:
        cdef void *data
        return row.tensors[k] == NULL or (
            self.finds(row.tensors[k], &row.form if k < SHAPED else &COUNT_FORM, &data)
            and data == row.data[k]
        )

    cdef inline bint finds(self, PyObject *tensor, const DLTensor *form, void **data) noexcept:
        """Whether the tensor has that form, and where it is."""
        cdef DLTensor found
        if self.api.look_at(tensor, &found) != 0:
            PyErr_Clear()
            return False
        data[0] = found.data
        return (
            found.device_type == DL_CPU
            and found.code == form.code
            and found.bits == form.bits
            and found.ndim == form.ndim
            and found.byte_offset == 0
            and same_lengths(found.shape, form.shape, form.ndim)
            and same_lengths(found.strides, form.strides, form.ndim)
        )

    cdef double count(self, Py_ssize_t i, Py_ssize_t k) noexcept:
        cdef const fa_array *array = &self.batch.c_arrays[i]
        return array.mu_product if k else <double>array.step

    cdef void write_counts(self) noexcept:
        cdef Py_ssize_t i, k
        for i in range(self.batch.n):
            for k in range(COUNTS):
                if self.batch.c_arrays[i].grad != NULL and self.rows[i].tensors[SHAPED + k] != NULL:
                    (<double *>self.rows[i].data[SHAPED + k])[0] = self.count(i, k)


cdef inline bint same_lengths(const int64_t *a, const int64_t *b, int n) noexcept:
    cdef int i
    for i in range(n):
        if a[i] != b[i]:
            return False
    return True
