# Steps on torch's tensors without a Python call for each; a part of _native.pyx. All else
# goes the way through Arrays (torch.py), which mends or refuses it.
#
# DLPack's exchange API (dlpack.h, 1.3; dmlc.github.io/dlpack) has a function that looks at
# where and how a tensor lies. It takes 20 ns, or 57 where only Python owns the tensor, as it
# mostly does parameters and state; any of a tensor's own methods takes 60 or more.

cdef extern from "Python.h":
    ctypedef struct PyGetSetDef:
        object (*get)(object, void *)
        void *closure
    ctypedef struct PyGetSetDescrObject:
        PyGetSetDef *d_getset

cdef struct DLTensor:
    void *data
    int32_t device_type, device_number, ndim
    uint8_t code, bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides  # in elements
    uint64_t byte_offset

cdef struct Owned:  # DLManagedTensorVersioned
    uint32_t major, minor
    void *context
    void (*release)(Owned *self) noexcept
    uint64_t flags
    DLTensor tensor

cdef struct ExchangeAPI:  # functions that return -1 have set an exception
    uint32_t major, minor
    void *older
    void *allocate
    int (*own)(PyObject *object, Owned **owned) noexcept
    void *to_object
    int (*look_at)(PyObject *object, DLTensor *tensor) noexcept
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
cdef struct Noted:
    DLTensor param_form
    DLTensor state_form  # another one if the parameter is strided
    PyObject *tensors[SHAPED + COUNTS]  # NULL where there is none
    void *data[SHAPED + COUNTS]
    bint is_odd  # whether its gradients must be mended
    Owned *alias


@cython.final
cdef class Tensors:
    """A batch whose arrays are torch's, to be stepped again while these are as they were.

    Parameters
    ----------
    batch : Batch
        Of the parameters that had a gradient; its arrays are the tensors' memory.
    exchange : capsule
        ``torch.Tensor.__dlpack_c_exchange_api__``
    grad_of : getset_descriptor
        ``torch.Tensor.grad``
    grad_type : type
        Of gradients.
    params : list of tensors
        Those of all groups.
    rows : list
        For each, None if it is not in the batch, or a tuple: the parameter, the rule's states,
        the step count and the product of momenta, None where there is none.
    state : dict
        The optimizer's.
    aliases : list of tensors
        For each parameter of the batch, one that shares its version counter.
    increment_version : callable
        ``torch.autograd.graph.increment_version``
    read_group, read_grad, is_aliased : callable
        ``read_group(group, names)`` gives a param group's options for `_hyper.check_group`,
        ``read_grad(name, tensor)`` an ndarray or RowGrad; ``is_aliased(tensor, owners)`` says
        whether more than so many own the tensor's memory, or may come to.

    Raises
    ------
    NotImplementedError
        These tensors cannot be stepped so.
    """

    cdef Batch batch
    cdef ExchangeAPI *api
    cdef PyGetSetDef *grad_of  # to call it takes 20 ns less than to look it up
    cdef object grad_type, state, increment_version, read_group, read_grad, is_aliased
    cdef list params, kept, aliases
    cdef list seen_groups, seen_state, seen_entries  # see `has_items`
    cdef Py_ssize_t *places  # of the parameters in the batch, or -1
    cdef Noted *noted
    cdef int64_t *lengths  # of the forms: shapes and strides

    def __cinit__(
        self, Batch batch, exchange, grad_of, grad_type, list params, list rows, state, list aliases,
        increment_version, read_group, read_grad, is_aliased,
    ):
        cdef Py_ssize_t i, n = 0
        cdef int64_t *lengths
        self.batch = batch
        self.api = <ExchangeAPI *>PyCapsule_GetPointer(exchange, "dlpack_exchange_api")
        if self.api.major != DL_VERSION or self.api.look_at == NULL:
            raise NotImplementedError("another version of DLPack's exchange API")
        if type(grad_of) is not GetSetDescriptorType:
            raise NotImplementedError("gradients are kept in another way")
        self.grad_of = (<PyGetSetDescrObject *>grad_of).d_getset
        self.grad_type, self.state = grad_type, state
        self.read_group, self.read_grad, self.is_aliased = read_group, read_grad, is_aliased
        self.params, self.aliases, self.increment_version = params, aliases, increment_version
        self.kept = [row for row in rows if row is not None]
        if len(self.kept) != batch.n:
            raise NotImplementedError("the batch has other parameters")
        self.seen_groups = [[] for _ in range(batch.n_groups)]
        self.seen_state = items_of(state)
        self.seen_entries = [items_of(entry) for entry in state.values()]
        self.places = <Py_ssize_t *>allocate(len(params), sizeof(Py_ssize_t))
        self.noted = <Noted *>allocate(batch.n, sizeof(Noted))
        self.lengths = lengths = <int64_t *>allocate(
            4 * sum([array.ndim for array in batch.arrays.params]), sizeof(int64_t)
        )
        for i, row in enumerate(rows):
            self.places[i] = -1
            if row is not None:
                self.places[i] = n
                self.note(n, row, &lengths)
                n += 1
        for i, _, _ in batch.copies:
            self.noted[<Py_ssize_t>i].is_odd = True
        # Where nobody but Python owns a tensor, a call of torch's costs 36 ns more.
        for i, alias in enumerate(aliases):
            if self.api.own(<PyObject *>alias, &self.noted[i].alias) != 0:
                PyErr_Clear()
                raise NotImplementedError("a tensor that cannot be owned")

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.batch.n if self.noted != NULL else 0):
            if self.noted[i].alias != NULL:
                self.noted[i].alias.release(self.noted[i].alias)
        free(self.places)
        free(self.noted)
        free(self.lengths)

    cdef int note(self, Py_ssize_t i, tuple tensors, int64_t **room) except -1:
        """Note a parameter's tensors; they must be those of which the batch was made."""
        cdef Noted *noted = &self.noted[i]
        cdef Watched *slot = &self.batch.watched[i]
        cdef DLTensor found
        cdef Py_ssize_t k
        for k in range(SHAPED + COUNTS):
            if tensors[k] is None:
                continue
            noted.tensors[k] = <PyObject *>tensors[k]
            if self.api.look_at(noted.tensors[k], &found) != 0:
                return -1
            noted.data[k] = found.data
            if k >= SHAPED:
                if not is_alike(&found, &COUNT_FORM):
                    raise NotImplementedError("a count of another kind")
                continue
            if found.ndim != slot.layout.ndim or (k == 0 and self.batch.c_arrays[i].size and found.data != slot.data):
                raise NotImplementedError("a parameter changed meanwhile")
            if k == 0:
                noted.param_form = noted.state_form = copied(&found, room)
            elif not is_alike(&found, &noted.state_form):
                if k > 1:
                    raise NotImplementedError("state of different layouts")
                noted.state_form = copied(&found, room)
        return 0

    def step(self, groups, bint is_shared, int most_threads):
        """One step, by who holds the lock; False if anything changed or is unusual: nothing is done.

        The state is looked at only if others may have had it, or parts of it.
        """
        try:
            if not (
                self.take_groups(groups)
                and (not (is_shared or self.is_held()) or self.is_state_same())
                and self.take_all(groups)
            ):
                return False
            self.batch.batch.loss_scale = 1.0
            self.batch.run(most_threads)
            self.write_counts()
            return True
        finally:
            self.batch.release()

    cdef bint take_all(self, groups) except -1:
        cdef list odd = [], again = []
        if not self.take(groups, odd):
            return False
        if not odd:
            return True
        mended = []
        for i, grad in odd:
            array = self.read_grad(self.batch.arrays.name(i), grad)
            mended.append((i, self.batch.mended(i, array)))
        # Mending runs other people's code, so all addresses are taken anew.
        self.batch.release()
        if not self.take(groups, again) or [i for i, _ in again] != [i for i, _ in odd]:
            return False
        for i, array in mended:
            self.batch.hold(i, array)
            if not self.batch.claim_one(i):
                raise RuntimeError(f"{self.batch.arrays.name(i)} changed while it was checked")
        return True

    def is_state_shared(self):
        """Whether others than the optimizer hold the state, parts of it, or their memory."""
        cdef Py_ssize_t i, k
        if self.is_held():
            return True
        # Besides the optimizer, this object holds all of them, tensors twice.
        for i in range(PyList_GET_SIZE(self.seen_entries)):
            if Py_REFCNT(PyList_GET_ITEM(self.seen_state, 2 * i + 1)) != 2:
                return True
        for i in range(self.batch.n):
            for k in range(1, SHAPED + COUNTS):
                if self.noted[i].tensors[k] != NULL and Py_REFCNT(self.noted[i].tensors[k]) != 3:
                    return True
        for i in range(self.batch.n):
            for k in range(1, SHAPED + COUNTS):
                # Arrays of the batch own a state's memory, too.
                if self.noted[i].tensors[k] != NULL and self.is_aliased(
                    <object>self.noted[i].tensors[k], 2 if k < SHAPED else 1
                ):
                    return True
        return False

    cdef bint is_held(self) noexcept:
        """Whether anybody else holds the dict of all state."""
        return Py_REFCNT(<PyObject *>self.state) != 2

    cdef bint take_groups(self, groups) except -1:
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
        if not has_items(self.state, self.seen_state):
            return False
        for i in range(PyList_GET_SIZE(self.seen_entries)):
            if not has_items(self.seen_state[2 * i + 1], self.seen_entries[i]):
                return False
        for i in range(self.batch.n):
            for k in range(1, SHAPED + COUNTS):
                if not self.is_where_it_was(i, k):
                    return False
                if (
                    k < SHAPED and self.noted[i].tensors[k] != NULL and self.may_be_lazy(i)
                    and is_lazy(<object>self.noted[i].tensors[k])
                ):
                    return False
            if not self.has_counts(i):
                return False
        return True

    cdef bint take(self, groups, list odd) except -1:
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
                grad = self.grad_of.get(param, self.grad_of.closure)
                if grad is None:
                    continue
                if place < 0 or not self.is_where_it_was(place, 0) or not self.has_counts(place):
                    return False
                if not self.take_grad(place, grad):
                    odd.append((place, grad))
                elif self.may_be_lazy(place) and is_lazy(param):
                    return False
        return i == PyList_GET_SIZE(self.params)

    cdef bint take_grad(self, Py_ssize_t i, object grad) except -1:
        """Whether C may walk the gradient along with its parameter; then it is taken."""
        cdef fa_array *array = &self.batch.c_arrays[i]
        cdef int64_t item = fa_real_size(array.dtype)
        cdef DLTensor found
        if self.noted[i].is_odd or type(grad) is not self.grad_type:
            return False
        if self.api.look_at(<PyObject *>grad, &found) != 0:
            PyErr_Clear()
            self.noted[i].is_odd = True  # to find that out again would take torch a millisecond
            return False
        if (
            not is_alike(&found, &self.noted[i].param_form)
            or (array.size and (found.data == NULL or <uintptr_t>found.data % item))
            or touches(
                self.batch.written, self.batch.n_written, <uintptr_t>found.data,
                array.size * item, &self.batch.watched[i].place,
            )
            or (self.may_be_lazy(i) and is_lazy(grad))
        ):
            return False
        self.batch.hold(i, grad)
        self.batch.claim(i, found.data)
        return True

    cdef inline bint may_be_lazy(self, Py_ssize_t i) noexcept:
        """Whether its tensors may be conjugated or negated only when they are read.

        The imaginary part of a conjugated tensor is; its strides show it, if it has two elements.
        """
        return self.noted[i].param_form.code == DL_COMPLEX or self.batch.c_arrays[i].size == 1

    cdef inline bint is_where_it_was(self, Py_ssize_t i, Py_ssize_t k) noexcept:
        cdef Noted *noted = &self.noted[i]
        cdef const DLTensor *form = &noted.param_form
        cdef DLTensor found
        if noted.tensors[k] == NULL:
            return True
        if k > 0:
            form = &noted.state_form if k < SHAPED else &COUNT_FORM
        if self.api.look_at(noted.tensors[k], &found) != 0:
            PyErr_Clear()
            return False
        return found.data == noted.data[k] and is_alike(&found, form)

    cdef inline bint has_counts(self, Py_ssize_t i) noexcept:
        """Whether its counts are as the last step wrote them."""
        cdef Py_ssize_t k
        cdef const double *count
        for k in range(COUNTS):
            count = <const double *>self.noted[i].data[SHAPED + k]
            if count != NULL and count[0] != self.count(i, k):
                return False
        return True

    cdef int write_counts(self) except -1:
        """Say in the tensors that they were stepped; autograd refuses graphs that are older."""
        cdef Py_ssize_t i, k, stepped = 0
        cdef double *count
        for i in range(self.batch.n):
            if self.batch.held[i] == NULL:
                continue
            stepped += 1
            for k in range(COUNTS):
                count = <double *>self.noted[i].data[SHAPED + k]
                if count != NULL:
                    count[0] = self.count(i, k)
        if stepped == self.batch.n:
            self.increment_version(self.aliases)
        elif stepped:
            self.increment_version(
                [self.aliases[i] for i in range(self.batch.n) if self.batch.held[i] != NULL]
            )
        return 0

    cdef inline double count(self, Py_ssize_t i, Py_ssize_t k) noexcept:
        cdef const fa_array *array = &self.batch.c_arrays[i]
        return array.numbers[0] if k else <double>array.step


cdef bint is_lazy(tensor) except -1:
    return tensor.is_conj() or tensor.is_neg()


cdef inline bint is_alike(const DLTensor *tensor, const DLTensor *form) noexcept:
    """Whether a tensor on the CPU has that form."""
    cdef int i
    if not (
        tensor.device_type == DL_CPU
        and tensor.code == form.code
        and tensor.bits == form.bits
        and tensor.ndim == form.ndim
        and tensor.byte_offset == 0
    ):
        return False
    for i in range(form.ndim):
        if tensor.shape[i] != form.shape[i] or tensor.strides[i] != form.strides[i]:
            return False
    return True


cdef DLTensor copied(const DLTensor *tensor, int64_t **room) noexcept:
    """A form that stays; its shape and strides go to the front of the room."""
    cdef DLTensor form = tensor[0]
    cdef int i
    form.shape = room[0]
    form.strides = room[0] + form.ndim
    room[0] += 2 * form.ndim
    for i in range(form.ndim):
        form.shape[i] = tensor.shape[i]
        form.strides[i] = tensor.strides[i]
    return form
