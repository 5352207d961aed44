# cython: language_level=3
# cython: freethreading_compatible=True
"""Steps on torch's tensors without a Python call for each.

All else goes the way through Arrays (_optimizer.py), which mends or refuses it.

DLPack's exchange API (dlpack.h, 1.3; dmlc.github.io/dlpack) has a function that looks at where
and how a tensor lies. It takes 20 ns, or 57 where only Python owns the tensor, as it mostly does
parameters and state; any of a tensor's own methods takes 60 or more.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from cpython.exc cimport PyErr_Clear
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_CLEAR, Py_INCREF
cimport cython
cimport numpy as cnp
from fastadam._native cimport (
    FA_BFLOAT16, FA_FLOAT16, FA_FLOAT32, FA_NUMBERS, FA_PLAIN, FA_STATES, Batch, allocate, fa_array, has_items, touches,
)

from collections import defaultdict
from types import GetSetDescriptorType

import torch

from fastadam import _hyper
from fastadam._native import items_of

cnp.import_array()

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    enum { HAS_GIL = 0 };
    #else
    enum { HAS_GIL = 1 };
    #endif
    """
    enum: HAS_GIL

cdef extern from "Python.h":
    ctypedef struct PyGetSetDef:
        object (*get)(object, void *)
        void *closure
    ctypedef struct PyGetSetDescrObject:
        PyGetSetDef *d_getset
    Py_ssize_t Py_REFCNT(PyObject *object)
    PyObject *PyList_GET_ITEM(object items, Py_ssize_t i)

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
    DL_BFLOAT = 4
    DL_COMPLEX = 5
    REST = 1 + FA_STATES  # what stands behind a parameter and its states,
    SHAPED = 2 + FA_STATES  # and how many all of these are
    COUNTS = 1 + FA_NUMBERS  # the step count and the rule's running numbers

cdef list UNKNOWN = [None]  # the items of no dict, for `has_items`

cdef DLTensor COUNT_FORM
COUNT_FORM.code, COUNT_FORM.bits, COUNT_FORM.ndim = DL_FLOAT, 64, 0

cdef object Tensor = torch.Tensor
cdef object grad_attribute = Tensor.grad
if type(grad_attribute) is not GetSetDescriptorType:
    raise ImportError("torch keeps gradients in a way that this extension does not know")
# To call the getter takes 20 ns less than to look it up.
cdef PyGetSetDef *grad_of = (<PyGetSetDescrObject *>grad_attribute).d_getset

# A parameter's tensors as they were when the batch was made.
cdef struct Noted:
    DLTensor forms[SHAPED]
    PyObject *tensors[SHAPED + COUNTS]  # NULL where there is none
    void *data[SHAPED + COUNTS]
    bint is_odd  # whether its gradients must always be mended
    bint is_lazy  # whether this step's gradient must be
    bint is_taken  # whether the address of this step's gradient is
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
    params : list of tensors
        Those of all groups.
    locals : list
        For each that is a DTensor, the part of it that is here; for others None.
    rows : list
        For each, None if it is not in the batch, or two lists: its memory, that of the rule's
        states and that of what it lacks of a float32, with None where there is none; and its
        counts. A memory has a `tensor` and an `array` that owns what C writes to, whatever
        becomes of the tensor.
    state : dict
        The optimizer's.
    aliases : list of tensors
        For each parameter of the batch, one that shares its version counter: of a DTensor, that
        of the part that is here.
    wholes : list of (int, tensor)
        The DTensors, whose version counters are others, and their places in the batch.
    increment_versions, read_group, read_grad, local_grad, is_aliased : callable
        ``increment_versions(tensors)`` has autograd refuse graphs that are older,
        ``read_group(group, names)`` gives a param group's options for `_hyper.check_group`,
        ``read_grad(name, grad)`` an ndarray or RowGrad and the ndarray of its numbers;
        ``local_grad(name, grad, param)`` the part of a DTensor's gradient that is here;
        ``is_aliased(tensor)`` says whether others own the tensor's memory, or may come to.

    Attributes
    ----------
    is_shared : bool
        Whether others may have the state, or parts of it: then it is looked at. Whoever gives
        it away sets this.

    Raises
    ------
    NotImplementedError
        These tensors cannot be stepped so.
    """

    cdef public bint is_shared
    cdef Batch batch
    cdef ExchangeAPI *api
    cdef object state, increment_versions, read_group, read_grad, local_grad, is_aliased
    cdef tuple params, locals
    cdef list rows, lazy
    cdef list counters, counted  # tensors with version counters, and their places in the batch
    cdef list seen_groups, seen_state, seen_entries  # see `has_items`
    cdef Py_ssize_t n  # of the batch, which the garbage collector may take away first
    cdef Py_ssize_t *places  # of the parameters in the batch, or -1
    cdef PyObject **grads  # owned during a step
    cdef Py_ssize_t n_held  # how many of them there are
    cdef Noted *noted
    cdef int64_t *lengths  # of the forms: shapes and strides

    def __cinit__(
        self, Batch batch, exchange, list params, list locals, list rows, state, list aliases,
        list wholes, increment_versions, read_group, read_grad, local_grad, is_aliased,
    ):
        cdef Py_ssize_t i, n = 0
        cdef int64_t *lengths
        self.is_shared = True
        self.batch = batch
        self.api = <ExchangeAPI *>PyCapsule_GetPointer(exchange, "dlpack_exchange_api")
        if self.api.major != DL_VERSION or self.api.look_at == NULL:
            raise NotImplementedError("another version of DLPack's exchange API")
        self.params, self.locals = tuple(params), tuple(locals)
        self.state = state
        self.counters = [*aliases, *[param for _, param in wholes]]
        self.counted = [*range(batch.n), *[i for i, _ in wholes]]
        self.increment_versions, self.is_aliased = increment_versions, is_aliased
        self.read_group, self.read_grad, self.local_grad = read_group, read_grad, local_grad
        self.rows = [row for row in rows if row is not None]
        if len(self.rows) != batch.n:
            raise NotImplementedError("the batch has other parameters")
        self.seen_groups = [UNKNOWN] * batch.n_groups
        self.seen_state = items_of(state)
        self.seen_entries = [items_of(entry) for entry in self.seen_state[1::2]]
        self.places = <Py_ssize_t *>allocate(len(params), sizeof(Py_ssize_t))
        self.grads = <PyObject **>allocate(batch.n, sizeof(PyObject *))
        self.noted = <Noted *>allocate(batch.n, sizeof(Noted))
        self.n = batch.n
        self.lengths = lengths = <int64_t *>allocate(
            2 * SHAPED * sum([array.ndim + 1 for array in batch.arrays.params]), sizeof(int64_t)
        )
        for i, row in enumerate(rows):
            self.places[i] = -1
            if row is not None:
                self.places[i] = n
                self.note(n, row[0], row[1], &lengths)
                n += 1
        for i, _, _ in batch.copies:
            self.noted[i].is_odd = True
        self.lazy = [i for i in range(self.n) if self.may_be_lazy(i)]
        # Where nobody but Python owns a tensor, a call of torch's costs 36 ns more.
        for i, alias in enumerate(aliases):
            if self.api.own(<PyObject *>alias, &self.noted[i].alias) != 0:
                PyErr_Clear()
                raise NotImplementedError("a tensor that cannot be owned")

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n):
            if self.noted[i].alias != NULL:
                self.noted[i].alias.release(self.noted[i].alias)
        free(self.places)
        free(self.grads)
        free(self.noted)
        free(self.lengths)

    cdef int note(self, Py_ssize_t i, list tensors, list counts, int64_t **room) except -1:
        """Note a parameter's tensors; their memory must be that of which the batch was made."""
        cdef Noted *noted = &self.noted[i]
        cdef DLTensor found
        cdef Py_ssize_t k
        for k, memory in enumerate(tensors):
            if memory is None:
                continue
            if k == len(tensors) - 1:
                k = REST
            self.look(noted, k, memory.tensor, memory.array, &found)
            noted.forms[k] = copied(&found, room)
        for k, memory in enumerate(counts):
            self.look(noted, SHAPED + k, memory.tensor, memory.array, &found)
            if not is_alike(&found, &COUNT_FORM):
                raise NotImplementedError("a count of another kind")
        return 0

    cdef int look(
        self, Noted *noted, Py_ssize_t k, tensor, cnp.ndarray array, DLTensor *found
    ) except -1:
        noted.tensors[k] = <PyObject *>tensor
        if self.api.look_at(noted.tensors[k], found) != 0:
            PyErr_Clear()
            raise NotImplementedError("a tensor that cannot be looked at")
        noted.data[k] = found.data
        if found.ndim != array.ndim or (array.size and found.data != cnp.PyArray_DATA(array)):
            raise NotImplementedError("a tensor changed meanwhile")
        return 0

    def step(self, groups, int most_threads):
        """One step; False, and nothing is done, if anything changed or is unusual.

        To read options and gradients may run other people's code: that of their classes, of
        torch's modes and of signal handlers. It may replace or move whatever it can reach. So
        addresses are taken only after its last line: from `take` to the end of the C call
        nothing runs but this file, functions of C and, where they give the GIL away, threads,
        which must leave memory where it is, as they must for any function of torch's.
        """
        cdef Py_ssize_t i, left
        cdef bint is_looked_at = False
        cdef list mended = None
        try:
            if not (self.read_groups(groups) and self.hold_grads(groups)):
                return False
            while True:
                if self.has_lazy():
                    return False
                left = self.take(mended)
                if left < 0:
                    return False
                if left == 0:
                    break
                mended = self.mend(mended)
            if mended is not None:
                self.take_mended(mended)
            is_looked_at = self.may_have_changed()
            self.is_shared = False  # until somebody has the state again, be it during the step
            self.batch.batch.loss_scale = 1.0
            self.batch.run(most_threads)
            self.write_counts()
            if self.n_held == self.n:
                self.increment_versions(self.counters)
            elif self.n_held:
                self.increment_versions([
                    self.counters[k]
                    for k, i in enumerate(self.counted)
                    if self.grads[<Py_ssize_t>i] != NULL
                ])
        except BaseException:
            self.is_shared = True
            raise
        finally:
            self.batch.release()
            self.drop_grads()
        if is_looked_at:
            self.ask_who_shares()
        return True

    cdef bint read_groups(self, groups) except -1:
        """Read the options that changed; False if the groups are not as they were."""
        cdef Py_ssize_t i = 0
        for group in groups:
            if i == self.batch.n_groups:
                return False
            if not has_items(group, self.seen_groups[i]):
                self.seen_groups[i] = UNKNOWN
                traits = self.batch.arrays.traits[i]
                before = dict(group)  # what is replaced from here on will be read again
                options = self.read_group(group, traits.options)
                if any([options[key] for key in traits.lacking]):
                    return False
                if options["state_dtype"] not in traits.state_dtypes:
                    return False  # it is looked at whether the state is stored so
                self.batch.load_group(i, _hyper.check_options(options, traits))
                if type(group) is dict and _hyper.are_fixed([before[key] for key in traits.options]):
                    self.seen_groups[i] = items_of(before)
            i += 1
        return i == self.batch.n_groups

    cdef bint hold_grads(self, groups) except -1:
        """Hold the gradients; False if the parameters are not those that there were."""
        cdef Py_ssize_t i = 0, place
        self.n_held = 0
        for group in groups:
            for param in group["params"]:
                if i == len(self.params) or param is not self.params[i]:
                    return False
                if self.locals[i] is not None and param._local_tensor is not self.locals[i]:
                    return False
                place = self.places[i]
                i += 1
                grad = grad_of.get(param, grad_of.closure)
                if grad is None:
                    continue
                if place < 0:
                    return False
                if self.locals[i - 1] is not None:
                    grad = self.local_grad(self.batch.arrays.name(place), grad, param)
                Py_INCREF(grad)
                self.grads[place] = <PyObject *>grad
                self.n_held += 1
        return i == len(self.params)

    cdef void drop_grads(self) noexcept:
        cdef Py_ssize_t i
        for i in range(self.n):
            Py_CLEAR(self.grads[i])

    cdef bint has_lazy(self) except -1:
        """Whether a parameter or state is conjugated or negated lazily; note gradients that are."""
        cdef Py_ssize_t i, k
        cdef bint is_looked_at = self.may_have_changed()
        for i in self.lazy:
            if self.grads[i] == NULL:
                continue
            grad = <object>self.grads[i]
            self.noted[i].is_lazy = type(grad) is Tensor and is_lazy(grad)
            for k in range(SHAPED if is_looked_at else 1):
                if self.noted[i].tensors[k] != NULL and is_lazy(<object>self.noted[i].tensors[k]):
                    return True
        return False

    cdef bint may_be_lazy(self, Py_ssize_t i) noexcept:
        """Whether its tensors may be conjugated or negated only when they are read.

        The imaginary part of a conjugated tensor is; its strides show it, if it has two elements.
        """
        return self.noted[i].forms[0].code == DL_COMPLEX or self.batch.c_arrays[i].size == 1

    cdef list mend(self, list mended):
        """Make plain arrays of the gradients that were not taken; and their numbers' memory."""
        cdef Py_ssize_t i
        if mended is None:
            mended = [None] * self.n
        for i in range(self.n):
            if self.grads[i] != NULL and not self.noted[i].is_taken and mended[i] is None:
                name = self.batch.arrays.name(i)
                grad, array = self.read_grad(name, <object>self.grads[i])
                base = array.base if isinstance(array.base, Tensor) else None
                mended[i] = self.batch.mended(i, grad), array, base
        return mended

    cdef Py_ssize_t take(self, list mended) except -2:
        """Take the addresses of gradients that C may walk; how many others must be mended.

        -1 if anything of the parameters or the state is not as it was.
        """
        cdef Py_ssize_t i, left = 0
        self.batch.batch.n_jobs = 0
        if self.may_have_changed() and not self.is_state_same():
            return -1
        for i in range(self.n):
            if self.grads[i] == NULL:
                continue
            if not self.is_where_it_was(i, 0) or not self.has_counts(i):
                return -1
            if mended is not None and mended[i] is not None:
                _, array, base = mended[i]
                if base is not None and not self.has_memory(base, array):
                    return -1
            elif not self.take_grad(i):
                left += 1
        return left

    cdef bint take_grad(self, Py_ssize_t i) noexcept:
        """Whether C may walk the gradient along with its parameter; then its address is taken."""
        cdef Noted *noted = &self.noted[i]
        cdef size_t n_bytes, real
        cdef PyObject *grad = self.grads[i]
        cdef DLTensor found
        cdef int codec
        noted.is_taken = False
        if noted.is_odd or noted.is_lazy or type(<object>grad) is not Tensor:
            return False
        if self.api.look_at(grad, &found) != 0:
            PyErr_Clear()
            noted.is_odd = True  # to find that out again would take torch a millisecond
            return False
        codec = self.codec_of(i, &found)
        if codec < 0 or not lies_alike(&found, &noted.forms[0]):
            return False
        real = real_size(&found)
        n_bytes = self.batch.c_arrays[i].size * real
        if n_bytes and (found.data == NULL or <uintptr_t>found.data % real):
            return False
        if touches(
            self.batch.written, self.batch.n_written, <uintptr_t>found.data, n_bytes,
            &self.batch.watched[i].place,
        ):
            return False
        noted.is_taken = True
        self.batch.claim(i, found.data, codec)
        return True

    cdef inline int codec_of(self, Py_ssize_t i, const DLTensor *grad) noexcept:
        """How C must read a gradient; -1: it may not."""
        cdef const fa_array *array = &self.batch.c_arrays[i]
        cdef const DLTensor *form = &self.noted[i].forms[0]
        if grad.code == form.code and grad.bits == form.bits:
            return array.format.param
        if array.dtype != FA_FLOAT32 or form.code == DL_COMPLEX:
            return -1
        if grad.code == DL_BFLOAT and grad.bits == 16:
            return FA_BFLOAT16
        if grad.code == DL_FLOAT and grad.bits == 16:
            return FA_FLOAT16
        return FA_PLAIN if grad.code == DL_FLOAT and grad.bits == 32 else -1

    cdef int take_mended(self, list mended) except -1:
        cdef Py_ssize_t i
        for i in range(self.n):
            if mended[i] is not None:
                self.batch.hold(i, mended[i][0])
                if not self.batch.claim_one(i, True):
                    raise RuntimeError(f"{self.batch.arrays.name(i)} changed while it was checked")
        return 0

    cdef bint has_memory(self, tensor, cnp.ndarray array) noexcept:
        """Whether a tensor still has the memory of which an array was made."""
        cdef DLTensor found
        if self.api.look_at(<PyObject *>tensor, &found) != 0:
            PyErr_Clear()
            return False
        return found.data == cnp.PyArray_DATA(array) or array.size == 0

    cdef bint may_have_changed(self) noexcept:
        """Whether the state has to be looked at.

        Without a GIL always: another thread can come by it at any time, whatever references say.
        """
        return not HAS_GIL or self.is_shared or self.is_held()

    cdef bint is_held(self) noexcept:
        """Whether others than the optimizer and this object hold the dict of all state.

        This and `is_state_shared` count references from containers and attributes. What Python
        holds only while it runs a line, and from 3.14 on no longer counts, is not among them.
        """
        return Py_REFCNT(<PyObject *>self.state) != 2

    cdef int ask_who_shares(self) except -1:
        """Note whether anybody could change the state, or move its memory, without our notice."""
        cdef bint is_shared = True
        try:
            # What changed before it was asked who holds it is seen by looking once more.
            is_shared = self.is_state_shared() or not self.is_state_same()
        finally:
            if is_shared:  # or whoever had the state meanwhile has said so
                self.is_shared = True
        return 0

    cdef bint is_state_shared(self) except -1:
        """Whether others than the optimizer hold the state, parts of it, or their memory."""
        cdef Py_ssize_t i, k
        # A dict of another class may have weak references.
        if self.is_held() or type(self.state) not in (dict, defaultdict):
            return True
        if any([type(entry) is not dict for entry in self.seen_state[1::2]]):
            return True
        # Besides the optimizer, this object holds all of them, tensors twice.
        for i in range(len(self.seen_entries)):
            if Py_REFCNT(PyList_GET_ITEM(self.seen_state, 2 * i + 1)) != 2:
                return True
        for i in range(self.n):
            for k in range(1, SHAPED + COUNTS):
                if self.noted[i].tensors[k] != NULL and Py_REFCNT(self.noted[i].tensors[k]) != 3:
                    return True
        for i in range(self.n):
            for k in range(1, SHAPED + COUNTS):
                if self.noted[i].tensors[k] != NULL and self.is_aliased(
                    <object>self.noted[i].tensors[k]
                ):
                    return True
        return False

    cdef bint is_state_same(self) noexcept:
        """Whether there are the same tensors in the same places, and the last step's counts."""
        cdef Py_ssize_t i, k
        if not has_items(self.state, self.seen_state):
            return False
        for i in range(PyList_GET_SIZE(self.seen_entries)):
            if not has_items(
                <object>PyList_GET_ITEM(self.seen_state, 2 * i + 1),
                <list>PyList_GET_ITEM(self.seen_entries, i),
            ):
                return False
        for i in range(self.n):
            for k in range(1, SHAPED + COUNTS):
                if not self.is_where_it_was(i, k):
                    return False
            if not self.has_counts(i):
                return False
        return True

    cdef inline bint is_where_it_was(self, Py_ssize_t i, Py_ssize_t k) noexcept:
        cdef Noted *noted = &self.noted[i]
        cdef const DLTensor *form = &noted.forms[k] if k < SHAPED else &COUNT_FORM
        cdef DLTensor found
        if noted.tensors[k] == NULL:
            return True
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

    cdef void write_counts(self) noexcept:
        cdef Py_ssize_t i, k
        cdef double *count
        for i in range(self.n):
            if self.grads[i] == NULL:
                continue
            for k in range(COUNTS):
                count = <double *>self.noted[i].data[SHAPED + k]
                if count != NULL:
                    count[0] = self.count(i, k)

    cdef inline double count(self, Py_ssize_t i, Py_ssize_t k) noexcept:
        cdef const fa_array *array = &self.batch.c_arrays[i]
        return array.numbers[k - 1] if k else <double>array.step


cdef bint is_lazy(tensor) except -1:
    return tensor.is_conj() or tensor.is_neg()


cdef inline bint is_alike(const DLTensor *tensor, const DLTensor *form) noexcept:
    """Whether a tensor on the CPU has that form."""
    return tensor.code == form.code and tensor.bits == form.bits and lies_alike(tensor, form)


cdef inline bint lies_alike(const DLTensor *tensor, const DLTensor *form) noexcept:
    """Whether a tensor on the CPU has that form, but for its dtype."""
    cdef int i
    if not (
        tensor.device_type == DL_CPU
        and tensor.ndim == form.ndim
        and tensor.byte_offset == 0
    ):
        return False
    for i in range(form.ndim):
        if tensor.shape[i] != form.shape[i] or tensor.strides[i] != form.strides[i]:
            return False
    return True


cdef inline size_t real_size(const DLTensor *tensor) noexcept:
    """The size of one of its real numbers."""
    return tensor.bits // (16 if tensor.code == DL_COMPLEX else 8)


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
