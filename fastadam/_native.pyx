# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The binding: arrays to pointers, then one C call with the GIL released.

Gradients that are plain (see _arrays.py) are recognized here in a few
nanoseconds each; all others take the way through `Arrays.plain_gradients`,
which copies or refuses them.
"""

from libc.limits cimport INT_MAX
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcpy, memset
from cpython.exc cimport PyErr_CheckSignals, PyErr_Clear
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.object cimport PyObject
from cpython.ref cimport Py_CLEAR, Py_INCREF
from cpython.sequence cimport PySequence_Fast_GET_SIZE, PySequence_Fast_ITEMS
cimport cython
cimport numpy as cnp

import os
from time import sleep
from types import GetSetDescriptorType

import numpy as np

from fastadam import _fork, _hyper
from fastadam._arrays import REENTERED
from fastadam._rows import Rows
from fastadam._rules import ADAM

cnp.import_array()

cdef extern from "fastadam.h":
    enum: FA_FLOAT32, FA_FLOAT64, FA_STATES, FA_N_RULES
    const char *const fa_rule_names[]
    ctypedef struct fa_hyper:
        double lr, beta1, beta2, eps, weight_decay, alpha, momentum, dampening, momentum_decay
        double ema_decay, loss_scale
        int amsgrad, maximize, decoupled, epsilon_hat, nesterov, centered
    ctypedef struct fa_scalars:
        pass
    ctypedef struct fa_array:
        void *param
        const void *grad
        void *state[FA_STATES]
        void *average
        int64_t size
        const int64_t *rows
        int64_t width, step
        double mu_product
        int group, dtype
    ctypedef struct fa_isa:
        const char *name
        int (*cpu_has)() nogil
    const fa_isa fa_isas[]
    ctypedef struct fa_batch:
        const fa_isa *isa
        int rule, threads
        const fa_hyper *groups
        fa_array *arrays
        int64_t n
        double max_grad_norm
        int measure_norm, skip_nonfinite
        fa_scalars *scratch
        double *sums
        double grad_norm
    int64_t fa_blocks(int64_t size)
    int64_t fa_real_size(int dtype)
    int fa_step(fa_batch *batch) nogil
    void fa_streams(const fa_batch *batch) nogil
    void fa_sum_rows(int dtype, void *sums, const void *values, int64_t width,
                     const int64_t *order, const int64_t *starts, int64_t n) nogil
    int fa_get_num_threads()
    void fa_set_num_threads(int n)
    const char *fa_threading

cdef extern from *:
    const char *FA_BUILT_WITH
    Py_ssize_t Py_REFCNT(PyObject *object)
    PyObject *PyList_GET_ITEM(object items, Py_ssize_t i)
    int PyDict_Next(object items, Py_ssize_t *position, PyObject **key, PyObject **value)

cdef extern from "numpy/arrayobject.h":
    void *PyArray_DESCR(cnp.ndarray array)
    int PyArray_CopyInto(cnp.ndarray dest, cnp.ndarray src) except -1

cdef int64_t KEEP_GIL_BELOW = 1024  # elements: giving the GIL away would take longer
STATES = FA_STATES  # most arrays of state that a rule keeps
built_with = FA_BUILT_WITH.decode()
threading = fa_threading.decode()
fa_get_num_threads()  # notes OpenMP's number before anybody limits it
cdef const fa_isa *isa = NULL


def instruction_sets():
    """{name: whether this CPU has it} of the compiled instruction sets, best first."""
    names = {}
    cdef const fa_isa *row = fa_isas
    while row.name != NULL:
        names[row.name.decode()] = bool(row.cpu_has())
        row += 1
    return names


def use(str name):
    """Take the kernels of an instruction set that the CPU has."""
    global isa
    cdef const fa_isa *row = fa_isas
    while row.name != NULL and row.name.decode() != name:
        row += 1
    if row.name == NULL or not row.cpu_has():
        raise ValueError(f"this CPU and build do not have {name}")
    isa = row


def used():
    """The name of the instruction set whose kernels are used."""
    return isa.name.decode()


def get_num_threads():
    """Threads that a large step uses now."""
    return fa_get_num_threads()


def set_num_threads(int n):
    """Ask for that many threads; 0 takes what OpenMP would use."""
    fa_set_num_threads(n)


def sum_rows(cnp.ndarray values, cnp.ndarray order, cnp.ndarray starts):
    """Sums of equal rows of plain values; see _rows.SumRows."""
    cdef int64_t n = len(starts) - 1
    cdef cnp.ndarray sums = np.empty((n, values.shape[1]), values.dtype)
    cdef int64_t width = values.shape[1] * reals(values)
    cdef int dtype = real_dtype(values)
    cdef void *to = cnp.PyArray_DATA(sums)
    cdef const void *source = cnp.PyArray_DATA(values)
    cdef const int64_t *c_order = <const int64_t *>cnp.PyArray_DATA(order)
    cdef const int64_t *c_starts = <const int64_t *>cnp.PyArray_DATA(starts)
    with nogil:
        fa_sum_rows(dtype, to, source, width, c_order, c_starts, n)
    return sums


cdef int rule_number(str name) except -1:
    cdef int i
    for i in range(FA_N_RULES):
        if fa_rule_names[i].decode() == name:
            return i
    raise ValueError(f"no rule {name}")


include "_lock.pxi"
include "_plain.pxi"


# What the binding knows of an array besides what C needs.
cdef struct Slot:
    PyObject *user  # the parameter as the user holds it,
    char *data  # where it lay when the batch was made,
    const cnp.npy_intp *strides  # and how
    Layout layout  # of the plain array in whose order gradients must come
    PyObject *grad  # owned during a step, so that nobody can free it
    Py_ssize_t place  # see `touches`
    int64_t size  # of the whole array, in real numbers


@cython.final
cdef class Batch:
    """The arrays of an optimizer with their step counts; the twin of _numpy.Batch."""

    cdef readonly object arrays
    cdef object spec
    cdef Lock lock
    cdef bint retired
    cdef str busy  # why it cannot be used now, or None
    cdef int64_t elements  # of all arrays
    cdef bint has_plain_keys  # whose comparison runs no user's code while pointers are taken
    cdef list copies  # (index, user's array, plain array)
    cdef list seen  # for each group, the keys and values that c_groups was made from
    cdef list scheduled  # for each group, its Hyper if its lr is a function, else None
    cdef readonly int64_t finished, skipped
    cdef Py_ssize_t n, n_groups, n_written
    cdef fa_batch batch
    cdef fa_array *c_arrays
    cdef fa_hyper *c_groups
    cdef Slot *slots
    cdef Interval *written
    cdef cnp.npy_intp *lengths  # of the slots' layouts: shapes and strides

    def __cinit__(self, arrays, counts, Lock lock, clip):
        cdef Py_ssize_t i, k, ndim
        cdef int64_t blocks = 0
        cdef cnp.npy_intp *lengths
        self.arrays = arrays
        self.spec = arrays.spec
        self.has_plain_keys = plain_keys(arrays.spec)
        self.lock = lock
        self.finished = counts.finished
        self.skipped = counts.skipped
        self.n = len(arrays.slots)
        self.n_groups = len(arrays.traits)
        self.n_written = len(arrays.spans.starts)
        self.c_arrays = <fa_array *>allocate(self.n, sizeof(fa_array))
        self.c_groups = <fa_hyper *>allocate(self.n_groups, sizeof(fa_hyper))
        self.slots = <Slot *>allocate(self.n, sizeof(Slot))
        self.written = <Interval *>allocate(self.n_written, sizeof(Interval))
        self.lengths = lengths = <cnp.npy_intp *>allocate(
            3 * sum([array.ndim for array in arrays.params]), sizeof(cnp.npy_intp)
        )
        self.copies = []
        self.seen = [[] for _ in range(self.n_groups)]
        self.scheduled = [None] * self.n_groups
        for i in range(self.n_written):
            self.written[i].start = arrays.spans.starts[i]
            self.written[i].end = arrays.spans.ends[i]
        for i in range(self.n):
            slot, user = arrays.slots[i], arrays.params[i]
            ndim = user.ndim
            self.slots[i].user = <PyObject *>user
            self.slots[i].data = cnp.PyArray_BYTES(user)
            self.slots[i].strides = copy_of(cnp.PyArray_STRIDES(user), ndim, &lengths)
            self.slots[i].layout = layout_of(slot.param)
            self.slots[i].layout.shape = copy_of(self.slots[i].layout.shape, ndim, &lengths)
            self.slots[i].layout.strides = copy_of(self.slots[i].layout.strides, ndim, &lengths)
            self.c_arrays[i].param = cnp.PyArray_DATA(slot.param)
            if slot.average is not None:
                self.c_arrays[i].average = cnp.PyArray_DATA(slot.average)
            for k, state in enumerate(slot.state):
                if state is not None:
                    self.c_arrays[i].state[k] = cnp.PyArray_DATA(state)
            self.slots[i].size = slot.param.size * reals(slot.param)
            self.c_arrays[i].size = self.slots[i].size
            self.c_arrays[i].dtype = real_dtype(slot.param)
            self.c_arrays[i].group = slot.group
            self.c_arrays[i].step = counts.steps[i]
            self.c_arrays[i].mu_product = counts.mu_products[i]
            self.elements += self.c_arrays[i].size
            blocks += fa_blocks(self.c_arrays[i].size)
            self.copies += [(i, user_array, plain) for user_array, plain in slot.copies]

        self.batch.rule = rule_number(arrays.rule.name)
        self.batch.arrays = self.c_arrays
        self.batch.groups = self.c_groups
        self.batch.n = self.n
        self.batch.grad_norm = counts.grad_norm
        self.batch.scratch = <fa_scalars *>allocate(self.n, sizeof(fa_scalars))
        self.batch.measure_norm = clip.measures
        self.batch.max_grad_norm = clip.max_grad_norm
        self.batch.skip_nonfinite = clip.skip_nonfinite
        self.batch.sums = <double *>allocate(blocks if clip.measures else 0, sizeof(double))

    def __dealloc__(self):
        free(self.c_arrays)
        free(self.c_groups)
        free(self.batch.scratch)
        free(self.batch.sums)
        free(self.slots)
        free(self.written)
        free(self.lengths)

    @property
    def grad_norm(self):
        """The norm of the last step's gradients; NaN before the first."""
        return self.batch.grad_norm

    def streams(self, grads):
        """Only move the memory of a step, with one addition a store: a yardstick."""
        self.batch.isa = isa
        self.batch.threads = fa_get_num_threads()
        if self.arrays.rule.name != ADAM.name:
            raise ValueError("the yardstick has Adam's streams")
        self.take_all(grads)
        with nogil:
            fa_streams(&self.batch)
        self.release()

    @property
    def steps(self):
        """The number of finished steps of each array."""
        return [self.c_arrays[i].step for i in range(self.n)]

    @property
    def mu_products(self):
        """NAdam's products of momenta."""
        return [self.c_arrays[i].mu_product for i in range(self.n)]

    def step(self, grads, groups, loss_scale, int most_threads=INT_MAX):
        """One step of every array that has a gradient; all checks come first.

        False if `retire` was called while this waited for the lock.
        """
        self.lock.acquire()
        try:
            if self.retired:
                return False
            self.check_whole()
            self.busy = REENTERED
            try:
                # Schedules may do anything, so gradients become pointers only after them.
                self.load_groups(groups, loss_scale)
                self.take_all(grads)
                self.run(most_threads)
            finally:
                self.release()
                self.busy = None
            return True
        finally:
            self.lock.release()

    def retire(self):
        """Do no more steps: the optimizer has another batch now."""
        self.check_whole()
        self.retired = True

    cpdef check_whole(self):
        """Raise if this is called from within a step, or while paused."""
        if self.busy is not None:
            raise RuntimeError(self.busy)

    def pause(self, str why):
        """Refuse to be used until `resume`."""
        self.check_whole()
        self.busy = why

    def resume(self):
        self.busy = None

    cdef int take_all(self, grads) except -1:
        cdef Py_ssize_t i
        if self.has_plain_keys and self.take(self.spec, grads):
            return 0
        leaves = self.arrays.leaves(grads)
        self.release()
        for i in range(self.n):
            if not self.take_leaf(i, leaves[i]):
                leaves[i] = self.mended(i, leaves[i])
        # Mending runs other people's code, so all addresses are taken anew.
        self.release()
        for i in range(self.n):
            self.take_mended(i, leaves[i])
        return 0

    cdef object mended(self, Py_ssize_t i, grad):
        """A gradient that is not plain, made so, or an error."""
        decay = self.c_groups[self.c_arrays[i].group].weight_decay
        return self.arrays.plain_gradient(i, grad, decay, sum_rows)

    cdef int take_mended(self, Py_ssize_t i, grad) except -1:
        if not (self.take_rows(i, grad) if type(grad) is Rows else self.take_leaf(i, grad)):
            raise RuntimeError(f"{self.arrays.name(i)} changed while it was checked")
        return 0

    cdef int run(self, int most_threads) except -1:
        """What follows cannot fail, nor be interrupted by a signal handler."""
        cdef Py_ssize_t i
        cdef int stepped
        for i, user, plain in self.copies:
            if self.slots[i].grad != NULL:
                PyArray_CopyInto(plain, user)
        stepped = step_batch(&self.batch, self.elements, most_threads)
        for i, user, plain in self.copies:
            if self.slots[i].grad != NULL:
                PyArray_CopyInto(user, plain)
        if stepped:
            self.finished += 1
        else:
            self.skipped += 1
        return 0

    cdef bint take(self, object spec, object grads) except -1:
        """Take plain gradients nested as the spec says; False if anything is unusual."""
        cdef Py_ssize_t i
        cdef PyObject *child_grads
        if type(spec) is int:
            return self.take_leaf(spec, grads)
        if type(spec) is list:
            if type(grads) is not list and type(grads) is not tuple:
                return False
            if PySequence_Fast_GET_SIZE(grads) != PyList_GET_SIZE(spec):
                return False
            for i in range(PyList_GET_SIZE(spec)):
                if not self.take((<list>spec)[i], <object>PySequence_Fast_ITEMS(grads)[i]):
                    return False
            return True
        if type(grads) is not dict or len(<dict>grads) != len(<dict>spec):
            return False
        for key, child in (<dict>spec).items():
            child_grads = PyDict_GetItemWithError(grads, key)
            if child_grads == NULL or not self.take(child, <object>child_grads):
                return False
        return True

    cdef bint take_leaf(self, Py_ssize_t i, object grad):
        cdef fa_array *array = &self.c_arrays[i]
        cdef Slot *slot = &self.slots[i]
        if grad is None:
            return True
        if type(grad) is not cnp.ndarray:
            return False
        cdef cnp.ndarray g = <cnp.ndarray>grad
        if not is_walked_as(g, &slot.layout) or not is_as_made(slot):
            return False
        if touches(
            self.written, self.n_written, <uintptr_t>cnp.PyArray_DATA(g),
            array.size * fa_real_size(array.dtype), &slot.place,
        ):
            return False
        Py_INCREF(g)
        slot.grad = <PyObject *>g
        array.grad = cnp.PyArray_DATA(g)
        return True

    cdef bint take_rows(self, Py_ssize_t i, rows):
        """Take what _rows.read made."""
        cdef fa_array *array = &self.c_arrays[i]
        cdef cnp.ndarray numbers = rows.rows, values = rows.values
        if not is_as_made(&self.slots[i]):
            return False
        array.rows = <const int64_t *>cnp.PyArray_DATA(numbers)
        array.width = values.shape[1] * reals(values)
        array.size = values.shape[0] * array.width
        Py_INCREF(rows)
        self.slots[i].grad = <PyObject *>rows
        array.grad = cnp.PyArray_DATA(values)
        return True

    cdef void release(self) noexcept:
        cdef Py_ssize_t i
        for i in range(self.n):
            self.c_arrays[i].grad = NULL
            self.c_arrays[i].rows = NULL
            self.c_arrays[i].size = self.slots[i].size
            Py_CLEAR(self.slots[i].grad)

    cdef int load_groups(self, groups, loss_scale) except -1:
        cdef Py_ssize_t i
        cdef fa_hyper *c_group
        cdef double scale = 1.0
        if type(loss_scale) is not float or <double>loss_scale != 1.0:
            scale = _hyper.check_loss_scale(loss_scale, self.arrays.traits)
        if len(groups) != self.n_groups:
            self.arrays.check_groups(groups)
        for i, group in enumerate(groups):
            if i == self.n_groups:
                self.arrays.check_groups(groups)
            c_group = &self.c_groups[i]
            c_group.loss_scale = scale
            if not has_items(group, self.seen[i]):
                hyper = _hyper.check_group(group, self.arrays.traits[i])
                self.seen[i] = items_of(group)
                self.scheduled[i] = hyper if callable(hyper.lr) else None
                fill(c_group, hyper)
        for i, hyper in enumerate(self.scheduled):
            if hyper is not None:
                self.c_groups[i].lr = _hyper.lr_now(hyper, self.finished, self.arrays.traits[i])
        return 0


def items_of(mapping):
    """Its keys and values, one behind the other; see `has_items`."""
    return [part for item in mapping.items() for part in item]


cdef bint has_items(mapping, list seen) noexcept:
    """Whether a dict's keys and values are still these same objects."""
    cdef Py_ssize_t position = 0, i = 0
    cdef PyObject *key
    cdef PyObject *value
    if not isinstance(mapping, dict) or 2 * len(<dict>mapping) != PyList_GET_SIZE(seen):
        return False
    # Walking both costs a third of looking the keys up.
    while PyDict_Next(mapping, &position, &key, &value):
        if key != PyList_GET_ITEM(seen, i) or value != PyList_GET_ITEM(seen, i + 1):
            return False
        i += 2
    return True


def plain_keys(spec):
    """Whether all keys of a nesting are strings or integers."""
    if type(spec) is dict:
        return all(type(key) in (str, int) for key in spec) and all(map(plain_keys, spec.values()))
    return type(spec) is int or all(map(plain_keys, spec))


cdef int step_batch(fa_batch *batch, int64_t elements, int most_threads) except -1:
    """The one C call of a step; whether it was not skipped."""
    cdef int stepped
    batch.isa = isa
    if elements < KEEP_GIL_BELOW:
        batch.threads = 1
        return fa_step(batch)
    batch.threads = min(fa_get_num_threads(), most_threads)
    with nogil:
        stepped = fa_step(batch)
    return stepped


cdef bint is_as_made(const Slot *slot) noexcept:
    """Whether the user's parameter lies and looks as it did when the batch was made."""
    cdef cnp.ndarray user = <cnp.ndarray>slot.user
    return (
        cnp.PyArray_BYTES(user) == slot.data
        and cnp.PyArray_FLAGS(user) & cnp.NPY_ARRAY_WRITEABLE
        and has_form(user, &slot.layout)
        and equal(cnp.PyArray_STRIDES(user), slot.strides, slot.layout.ndim)
    )


cdef int fill(fa_hyper *to, hyper) except -1:
    to.lr = 0.0 if callable(hyper.lr) else hyper.lr
    to.beta1 = hyper.beta1
    to.beta2 = hyper.beta2
    to.eps = hyper.eps
    to.weight_decay = hyper.weight_decay
    to.alpha = hyper.alpha
    to.momentum = hyper.momentum
    to.dampening = hyper.dampening
    to.momentum_decay = hyper.momentum_decay
    to.ema_decay = hyper.ema_decay
    to.amsgrad = hyper.amsgrad
    to.maximize = hyper.maximize
    to.decoupled = hyper.decoupled
    to.epsilon_hat = hyper.epsilon_hat
    to.nesterov = hyper.nesterov
    to.centered = hyper.centered
    return 0


cdef cnp.npy_intp *copy_of(const cnp.npy_intp *numbers, Py_ssize_t n, cnp.npy_intp **room) noexcept:
    """Copy numbers to the front of the room, and shorten the room."""
    cdef cnp.npy_intp *copy = room[0]
    memcpy(copy, numbers, n * sizeof(cnp.npy_intp))
    room[0] += n
    return copy


cdef void *allocate(Py_ssize_t n, size_t size) except NULL:
    cdef void *memory = calloc(n + 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef int resize(void **memory, size_t size) except -1:
    cdef void *moved = realloc(memory[0], size)
    if moved == NULL:
        raise MemoryError
    memory[0] = moved
    return 0


include "_direct.pxi"
include "_tensors.pxi"
