# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: freethreading_compatible=True
"""The binding: arrays to pointers, then one C call with the GIL released.

Gradients that C can walk along their parameters are recognized here in a few
nanoseconds each; all others take the way through `Arrays.plain_gradient`,
which copies or refuses them.
"""

from libc.float cimport FLT_MAX
from libc.limits cimport INT_MAX
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcpy, memset
from cpython.exc cimport PyErr_CheckSignals, PyErr_Clear
from cpython.list cimport PyList_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident, PyThread_type_lock
from cpython.object cimport PyObject
from cpython.ref cimport Py_CLEAR, Py_DECREF, Py_INCREF
from cpython.sequence cimport PySequence_Fast_GET_SIZE, PySequence_Fast_ITEMS
cimport cython
cimport numpy as cnp

import os
from time import sleep

import numpy as np

from fastadam import _hyper
from fastadam._codecs import BFLOAT16, FLOAT16, INT8, is_bfloat16, is_code
from fastadam._guard import HELD, KEPT, REENTERED
from fastadam._rows import Rows
from fastadam._rules import ADAM

cnp.import_array()

cdef extern from "fastadam.h":
    enum: FA_HYPERS, FA_BLOCK
    const char *const fa_hyper_names[]
    const char *fa_rule_name(int rule)
    const char *fa_isa_name(int isa)
    int fa_cpu_has(int isa)
    int fa_best_isa()
    int fa_states_kept(int rule, const fa_hyper *hyper)
    size_t fa_constants_size()
    int64_t fa_real_size(int dtype)
    int fa_step(fa_batch *batch) nogil
    void fa_touch(const fa_batch *batch) nogil
    int64_t fa_blocks(const fa_job *job)
    int64_t fa_sums(const fa_batch *batch, double scale, double *sums) nogil
    void fa_merge_rows(int dtype, void *sums, const void *values, int64_t width,
                       const int64_t *order, const int64_t *starts, int64_t n) nogil
    int fa_get_num_threads()
    void fa_set_num_threads(int n)
    const char *fa_threading

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030D0000 /* since when Python has it */
    static int PyDict_GetItemRef(PyObject *items, PyObject *key, PyObject **value)
    {
        *value = PyDict_GetItemWithError(items, key);
        Py_XINCREF(*value);
        return *value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
    }
    #endif
    """
    const char *FA_BUILT_WITH
    int PyDict_GetItemRef(object items, object key, PyObject **value) except -1
    double PyLong_AsDouble(object number)  # leaves an exception where the number is too large
    PyObject *PyList_GET_ITEM(object items, Py_ssize_t i)
    int PyDict_Next(object items, Py_ssize_t *position, PyObject **key, PyObject **value)

cdef extern from "numpy/arrayobject.h":
    void *PyArray_DESCR(cnp.ndarray array)
    int PyArray_CopyInto(cnp.ndarray dest, cnp.ndarray src) except -1

cdef int64_t KEEP_GIL_BELOW = 1024  # elements: giving the GIL away would take longer
HYPERS = tuple([fa_hyper_names[k].decode() for k in range(FA_HYPERS)])
built_with = FA_BUILT_WITH.decode()
threading = fa_threading.decode()
fa_get_num_threads()  # notes OpenMP's number before anybody limits it
cdef int isa = -1


cdef list names(const char *(*name_of)(int) noexcept):
    """The names of all rules or instruction sets, by number."""
    cdef list found = []
    while name_of(len(found)) != NULL:
        found.append(name_of(len(found)).decode())
    return found


def rules():
    """The names of the compiled rules."""
    return names(fa_rule_name)


def instruction_sets():
    """{name: whether this CPU has it} of the compiled instruction sets; see `best`."""
    return {name: bool(fa_cpu_has(i)) for i, name in enumerate(names(fa_isa_name))}


def best():
    """The name of the instruction set that is the fastest on this CPU."""
    return fa_isa_name(fa_best_isa()).decode()


def use(str name):
    """Take the kernels of an instruction set that the CPU has."""
    global isa
    if not instruction_sets().get(name):
        raise ValueError(f"this CPU and build do not have {name}")
    isa = names(fa_isa_name).index(name)


def used():
    """The name of the instruction set whose kernels are used."""
    return fa_isa_name(isa).decode()


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
        fa_merge_rows(dtype, to, source, width, c_order, c_starts, n)
    return sums


def block_sums(cnp.ndarray numbers, double scale):
    """The sums of squares of each block of a plain vector, times `scale` squared; see fa_sums."""
    cdef fa_array array
    cdef fa_job job
    cdef fa_batch batch
    cdef cnp.ndarray sums
    cdef double *to
    memset(&array, 0, sizeof(array))
    memset(&job, 0, sizeof(job))
    memset(&batch, 0, sizeof(batch))
    array.dtype = real_dtype(numbers)
    job.array = &array
    job.grad = cnp.PyArray_DATA(numbers)
    job.size = numbers.size
    batch.isa, batch.threads = isa, fa_get_num_threads()
    batch.jobs, batch.n_jobs = &job, 1
    sums = np.empty(fa_blocks(&job), np.float64)
    to = <double *>cnp.PyArray_DATA(sums)
    with nogil:
        fa_sums(&batch, scale, to)
    return sums


include "_lock.pxi"
include "_plain.pxi"


@cython.final
cdef class Leaves:
    """A list whose entries are all arrays, of the numbers first, first + 1, ..."""


cdef object with_leaves(spec):
    """A nesting (see _tree.py) with `Leaves` in place of such lists."""
    cdef Leaves leaves
    if type(spec) is dict:
        return {key: with_leaves(child) for key, child in spec.items()}
    if type(spec) is not list:
        return spec
    if not spec or not all([type(child) is int for child in spec]):
        return [with_leaves(child) for child in spec]
    leaves = Leaves()
    leaves.first, leaves.size = spec[0], len(spec)
    return leaves


@cython.final
cdef class Batch:
    """The arrays of an optimizer with their step counts; the twin of _numpy.Batch."""

    def __cinit__(self, arrays, counts, Lock lock, clip):
        cdef Py_ssize_t i, k, ndim
        cdef int64_t blocks = 0
        cdef int states
        cdef cnp.npy_intp *lengths
        cdef fa_array *c_array
        self.arrays = arrays
        self.spec = with_leaves(arrays.spec)
        self.nest = None if type(arrays.spec) is int else arrays.nest  # or nothing holds the array
        self.lock = lock
        self.finished = counts.finished
        self.skipped = counts.skipped
        self.n = len(arrays.slots)
        self.n_groups = len(arrays.traits)
        self.n_watched = len(arrays.written)
        self.n_written = len(arrays.spans.starts)
        self.c_arrays = <fa_array *>allocate(self.n, sizeof(fa_array))
        self.c_groups = <fa_hyper *>allocate(self.n_groups, sizeof(fa_hyper))
        self.kept = <int *>allocate(self.n_groups, sizeof(int))
        self.held = <PyObject **>allocate(self.n, sizeof(PyObject *))
        self.watched = <Watched *>allocate(self.n_watched, sizeof(Watched))
        self.written = <Interval *>allocate(self.n_written, sizeof(Interval))
        views = [array.view for array in arrays.written]  # of ndarray's own class
        self.lengths = lengths = <cnp.npy_intp *>allocate(
            3 * sum([view.ndim for view in views]), sizeof(cnp.npy_intp)
        )
        self.copies = []
        self.seen = [[] for _ in range(self.n_groups)]
        self.scheduled = [None] * self.n_groups
        for i in range(self.n_written):
            self.written[i].start = arrays.spans.starts[i]
            self.written[i].end = arrays.spans.ends[i]
        for i, view in enumerate(views):
            ndim = view.ndim
            self.watched[i].user = <PyObject *>arrays.written[i].user
            self.watched[i].data = cnp.PyArray_BYTES(view)
            self.watched[i].strides = copy_of(cnp.PyArray_STRIDES(view), ndim, &lengths)
            self.watched[i].layout = layout_of(arrays.slots[i].param if i < self.n else view)
            self.watched[i].layout.descr = PyArray_DESCR(view)
            self.watched[i].layout.type_number = cnp.PyArray_TYPE(view)
            self.watched[i].layout.shape = copy_of(self.watched[i].layout.shape, ndim, &lengths)
            self.watched[i].layout.strides = copy_of(self.watched[i].layout.strides, ndim, &lengths)
        for i in range(self.n_groups):
            self.kept[i] = (1 << FA_STATES) - 1
        for i in range(self.n):
            slot, c_array = arrays.slots[i], &self.c_arrays[i]
            c_array.streams.param = cnp.PyArray_DATA(slot.param)
            if slot.average is not None:
                c_array.streams.average = cnp.PyArray_DATA(slot.average)
            states = 0
            for k, state in enumerate(slot.state):
                if state is not None:
                    c_array.streams.state[k] = cnp.PyArray_DATA(state)
                    states |= 1 << k
            c_array.size = slot.param.size * reals(slot.param)
            c_array.dtype = FA_FLOAT32
            if slot.rest is not None:
                c_array.streams.rest = cnp.PyArray_DATA(slot.rest)
            else:
                c_array.dtype = real_dtype(slot.param)
            set_format(&c_array.format, arrays.rule, slot)
            note_bfloat16(slot.user.dtype)
            c_array.group = slot.group
            c_array.origin = slot.origin
            c_array.step = counts.steps[i]
            for k, number in enumerate(counts.numbers[i]):
                c_array.numbers[k] = number
            self.kept[c_array.group] &= states
            self.elements += c_array.size
            blocks += c_array.size // FA_BLOCK + 2  # the most, wherever the blocks begin
            self.copies += [(i, user_array, plain) for user_array, plain in slot.copies]

        self.batch.rule = rules().index(arrays.rule.name)
        self.batch.jobs = <fa_job *>allocate(self.n, sizeof(fa_job))
        self.batch.groups = self.c_groups
        self.batch.grad_norm = counts.grad_norm
        self.batch.constants = <fa_constants *>allocate(self.n, fa_constants_size())
        self.batch.norm = FA_MEASURED if clip.measures else FA_NO_NORM
        self.batch.max_grad_norm = clip.max_grad_norm
        self.batch.skip_nonfinite = clip.skip_nonfinite
        self.batch.sums = <double *>allocate(blocks if clip.measures else 0, sizeof(double))

    def __dealloc__(self):
        free(self.c_arrays)
        free(self.c_groups)
        free(self.kept)
        free(self.held)
        free(self.batch.jobs)
        free(self.batch.constants)
        free(self.batch.sums)
        free(self.watched)
        free(self.written)
        free(self.lengths)

    @property
    def grad_norm(self):
        """The norm of the last step's gradients; NaN before the first."""
        return self.batch.grad_norm

    def streams(self, grads):
        """Only move the memory of a step, with one addition a store: a yardstick."""
        cdef Py_ssize_t i
        cdef int k, coded = 0
        for i in range(self.n):
            coded |= self.c_arrays[i].format.param
            for k in range(FA_STATES):
                coded |= self.c_arrays[i].format.state[k]
        if coded:
            raise ValueError("the yardstick moves no numbers in fewer bits")
        self.lock.acquire()
        try:
            self.take_all(grads)
            self.batch.isa = isa
            self.batch.threads = fa_get_num_threads()
            with nogil:
                fa_touch(&self.batch)
        finally:
            self.release()
            self.lock.release()

    @property
    def steps(self):
        """The number of finished steps of each array."""
        return [self.c_arrays[i].step for i in range(self.n)]

    @property
    def numbers(self):
        """The running numbers of each array, as its rule names them."""
        cdef Py_ssize_t i, k, n = len(self.arrays.rule.numbers)
        return [tuple([self.c_arrays[i].numbers[k] for k in range(n)]) for i in range(self.n)]

    def step(self, grads, groups, loss_scale, int most_threads=INT_MAX):
        """One step of every array that has a gradient; all checks come first.

        False if the batch was retired while this waited for the lock.
        """
        self.lock.acquire()
        try:
            if self.retired:
                return False
            if self.sums is not None:
                raise ValueError(KEPT)
            self.step_held(grads, groups, loss_scale, most_threads)
            return True
        finally:
            self.lock.release()

    cpdef step_held(
        self, grads, groups, loss_scale, int most_threads=INT_MAX, norm=None
    ):
        """The same for who holds the lock, and who may know the norm of all gradients."""
        cdef int measures = self.batch.norm
        try:
            if norm is not None:
                self.batch.norm, self.batch.grad_norm = FA_GIVEN, norm
            # Schedules may do anything, so gradients become pointers only after them.
            self.load_groups(groups, loss_scale)
            if self.nest is not None and not (
                self.has_leaves(self.spec, self.nest)
                if type(self.spec) is Leaves
                else self.has_params(self.spec, self.nest)
            ):
                self.arrays.check_nest(self.arrays.leaves(grads))
            self.take_all(grads)
            self.run(most_threads)
        finally:
            self.batch.norm = <fa_norm>measures
            self.release()

    cdef bint has_leaves(self, Leaves spec, object nest) noexcept:
        """Whether a list's parameters are in their places; more entries may have come behind.

        Apart from `has_params`, in which this would take 15 ns more.
        """
        cdef Py_ssize_t i
        cdef const Watched *watched = &self.watched[spec.first]
        cdef PyObject **items
        if not isinstance(nest, (list, tuple)):
            return False
        with cython.critical_section(nest):
            if PySequence_Fast_GET_SIZE(nest) < spec.size:
                return False
            items = PySequence_Fast_ITEMS(nest)
            for i in range(spec.size):
                if items[i] != watched[i].user:
                    return False
        return True

    cdef bint has_params(self, object spec, object nest) noexcept:
        """Whether the parameters are in their places; False, too, where that is not seen at once.

        Dicts keep their order when a value is replaced, so both are walked side by side. Other
        keys and entries may have come behind.
        """
        cdef Py_ssize_t i, place = 0, place_now = 0
        cdef PyObject *key
        cdef PyObject *key_now
        cdef PyObject *child
        cdef PyObject *now
        if type(spec) is Leaves:
            return self.has_leaves(spec, nest)
        if not (isinstance(nest, dict) if type(spec) is dict else isinstance(nest, (list, tuple))):
            return False
        with cython.critical_section(nest):
            if type(spec) is dict:
                while PyDict_Next(spec, &place, &key, &child):
                    if not PyDict_Next(nest, &place_now, &key_now, &now) or key != key_now:
                        return False
                    if not self.has_child(<object>child, now):
                        return False
                return True
            for i in range(PyList_GET_SIZE(spec)):
                # To wait within ends the section for a while: the list may have been shortened.
                if PySequence_Fast_GET_SIZE(nest) <= i:
                    return False
                if not self.has_child((<list>spec)[i], PySequence_Fast_ITEMS(nest)[i]):
                    return False
            return True

    cdef inline bint has_child(self, object spec, PyObject *now) noexcept:
        if type(spec) is int:
            return now == self.watched[<Py_ssize_t>spec].user
        nest = <object>now  # owned, as others may take it out of where it is
        return self.has_params(spec, nest)

    cdef int take_all(self, grads) except -1:
        """Find the gradient of each array, then take the addresses of all.

        Other people's code may run while they are found, and none after.
        """
        cdef Py_ssize_t i
        if grads is not None and self.match(self.spec, grads) and self.claim_held():
            return 0
        self.release()
        leaves = self.arrays.leaves(grads)
        for i in range(self.n):
            if self.fits(i, leaves[i]) < 0:
                leaves[i] = self.mended(i, leaves[i])
        self.arrays.check_nest(leaves)
        for i in range(self.n):
            self.hold(i, leaves[i])
        if not self.claim_held(mended=True):
            self.arrays.check_written()
            raise RuntimeError("a gradient changed while others were checked")
        return 0

    cdef object mended(self, Py_ssize_t i, grad):
        """A gradient that is not plain, made so, or an error."""
        note_bfloat16(getattr(grad, "dtype", None))
        decay = self.c_groups[self.c_arrays[i].group].weight_decay
        return self.arrays.plain_gradient(i, grad, decay, sum_rows)

    cdef bint match(self, object spec, object grads) except -1:
        """Hold gradients nested as the spec says; False if the nesting is unusual."""
        cdef Py_ssize_t i, size
        cdef PyObject *found
        if type(spec) is int:
            self.hold(spec, grads)
            return True
        if type(spec) is dict:
            if type(grads) is not dict or len(<dict>grads) != len(<dict>spec):
                return False
            for key, child in (<dict>spec).items():
                if not PyDict_GetItemRef(grads, key, &found):
                    return False
                child_grads = <object>found
                Py_DECREF(child_grads)
                if not self.match(child, child_grads):
                    return False
            return True
        if type(grads) is not list and type(grads) is not tuple:
            return False
        with cython.critical_section(grads):
            if type(spec) is Leaves:
                size = (<Leaves>spec).size
                if PySequence_Fast_GET_SIZE(grads) != size:
                    return False
                for i in range(size):
                    child_grads = <object>PySequence_Fast_ITEMS(grads)[i]
                    self.hold((<Leaves>spec).first + i, child_grads)
                return True
            size = PyList_GET_SIZE(spec)
            for i in range(size):
                # The keys of a dict within, or other threads meanwhile, may have shortened the list.
                if PySequence_Fast_GET_SIZE(grads) != size:
                    return False
                child_grads = <object>PySequence_Fast_ITEMS(grads)[i]
                if not self.match((<list>spec)[i], child_grads):
                    return False
            return size == PySequence_Fast_GET_SIZE(grads)

    cdef void hold(self, Py_ssize_t i, object grad) noexcept:
        if grad is not None:
            Py_INCREF(grad)
            self.held[i] = <PyObject *>grad

    cdef bint claim_held(self, bint mended=False) noexcept:
        """Take the addresses of what is held; False if any of it does not fit.

        Rows are trusted only among gradients that were mended: those that mending made.
        """
        cdef Py_ssize_t i
        for i in range(self.n):
            if self.held[i] != NULL and not self.claim_one(i, mended):
                return False
        for i in range(self.n, self.n_watched):
            if not is_as_made(&self.watched[i]):
                return False
        return True

    cdef bint claim_one(self, Py_ssize_t i, bint mended) noexcept:
        cdef cnp.ndarray numbers, values
        cdef fa_job *job
        cdef int codec
        grad = <object>self.held[i]
        if type(grad) is cnp.ndarray:
            codec = self.fits(i, grad, mended)
            if codec < 0:
                return False
            self.claim(i, cnp.PyArray_DATA(<cnp.ndarray>grad), codec)
            return True
        if not mended or type(grad) is not Rows or not is_as_made(&self.watched[i]):
            return False
        numbers, values = grad.rows, grad.values
        job = self.claim(i, cnp.PyArray_DATA(values), FA_PLAIN)
        job.rows = <const int64_t *>cnp.PyArray_DATA(numbers)
        job.width = values.shape[1] * reals(values)
        job.size = values.shape[0] * job.width
        return True

    cdef int fits(self, Py_ssize_t i, object grad, bint mended=False) noexcept:
        """How C must read the gradient to walk it along its parameter; -1: it may not.

        Both are only looked at. None fits, however it is read.
        """
        cdef const fa_array *array = &self.c_arrays[i]
        cdef Watched *watched = &self.watched[i]
        if grad is None:
            return FA_PLAIN
        if type(grad) is not cnp.ndarray:
            return -1
        cdef cnp.ndarray g = <cnp.ndarray>grad
        cdef int codec = array.format.param
        if not is_walked_as(g, &watched.layout):
            codec = self.codec_of_another(i, g, mended)
        cdef size_t real = fa_real_size(array.dtype) if codec == FA_PLAIN else sizeof(short)
        if codec < 0 or not is_as_made(watched) or touches(
            self.written, self.n_written, <uintptr_t>cnp.PyArray_DATA(g),
            array.size * real, &watched.place,
        ):
            return -1
        return codec

    cdef int codec_of_another(self, Py_ssize_t i, cnp.ndarray grad, bint mended) noexcept:
        """The same by the layout alone, for a gradient of another dtype than the parameter's.

        bfloat16 as uint16 is trusted only among gradients that were mended.
        """
        cdef const fa_array *array = &self.c_arrays[i]
        cdef const Layout *layout = &self.watched[i].layout
        cdef int number = cnp.PyArray_TYPE(grad)
        cdef int size = sizeof(float) if array.format.param == FA_PLAIN else sizeof(short)
        if (
            array.dtype != FA_FLOAT32
            or layout.type_number == cnp.NPY_COMPLEX64
            or not cnp.PyArray_ISNOTSWAPPED(grad)
            or not cnp.PyArray_FLAGS(grad) & cnp.NPY_ARRAY_ALIGNED
            or cnp.PyArray_NDIM(grad) != layout.ndim
            or not equal(cnp.PyArray_DIMS(grad), layout.shape, layout.ndim)
            or not (
                cnp.PyArray_FLAGS(grad) & layout.orders
                or has_steps(grad, layout, cnp.PyArray_ITEMSIZE(grad), size)
            )
        ):
            return -1
        if number == cnp.NPY_FLOAT32:
            return FA_PLAIN
        if number == cnp.NPY_FLOAT16:
            return FA_FLOAT16
        if number == bfloat16_number or (mended and number == cnp.NPY_UINT16):
            return FA_BFLOAT16
        return -1

    cdef fa_job *claim(self, Py_ssize_t i, const void *grad, int codec) noexcept:
        """Let the step change an array against a gradient that is held."""
        cdef fa_job *job = &self.batch.jobs[self.batch.n_jobs]
        self.batch.n_jobs += 1
        job.array = &self.c_arrays[i]
        job.grad = grad
        job.codec = codec
        job.size = job.array.size
        job.rows = NULL
        return job

    cdef void release(self) noexcept:
        cdef Py_ssize_t i
        self.batch.n_jobs = 0
        for i in range(self.n):
            Py_CLEAR(self.held[i])

    cdef int run(self, int most_threads) except -1:
        """Nothing that follows can be interrupted by a signal handler."""
        cdef Py_ssize_t i
        cdef int stepped
        for i, user, plain in self.copies:
            if self.held[i] != NULL:
                PyArray_CopyInto(plain, user)
        stepped = step_batch(&self.batch, self.elements, most_threads)
        for i, user, plain in self.copies:
            if self.held[i] != NULL:
                PyArray_CopyInto(user, plain)
        if stepped:
            self.finished += 1
        else:
            self.skipped += 1
        return 0

    cdef int load_group(self, Py_ssize_t i, hyper) except -1:
        """Take a group's numbers; a learning rate that is a function comes at each step."""
        cdef double *numbers = <double *>&self.c_groups[i]
        cdef Py_ssize_t k
        for k in range(FA_HYPERS):
            value = getattr(hyper, HYPERS[k])
            numbers[k] = 0.0 if callable(value) else value
        if fa_states_kept(self.batch.rule, &self.c_groups[i]) & ~self.kept[i]:
            raise RuntimeError(f"{self.arrays.rule.name}: C and NumPy keep other states")
        return 0

    cdef int load_groups(self, groups, loss_scale) except -1:
        cdef Py_ssize_t i, n_read = 0
        cdef double scale = 1.0
        if type(loss_scale) is not float or <double>loss_scale != 1.0:
            scale = _hyper.check_loss_scale(loss_scale, self.arrays.traits)
        self.batch.loss_scale = scale
        if len(groups) != self.n_groups:
            self.arrays.check_number(groups)
        for i, group in enumerate(groups):
            if i == self.n_groups:
                self.arrays.check_number(groups)
            if type(group) is not dict or not self.seen[i] or not has_items(group, self.seen[i]):
                # What is remembered is what was checked: the group may get new values meanwhile.
                if type(group) is dict:
                    group = (<dict>group).copy()
                traits = self.arrays.traits[i]
                hyper = _hyper.check_group(group, traits)
                self.seen[i] = []
                self.scheduled[i] = hyper if callable(hyper.lr) else None
                self.load_group(i, hyper)
                if _hyper.is_fixed(group, traits):
                    self.seen[i] = items_of(group)
            n_read += 1
        if n_read != self.n_groups:  # what was read has taken some away
            self.arrays.check_number(groups)
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
    if not isinstance(mapping, dict):
        return False
    with cython.critical_section(mapping):
        if 2 * len(<dict>mapping) != PyList_GET_SIZE(seen):
            return False
        # Walking both costs a third of looking the keys up.
        while PyDict_Next(mapping, &position, &key, &value):
            if key != PyList_GET_ITEM(seen, i) or value != PyList_GET_ITEM(seen, i + 1):
                return False
            i += 2
        return True


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


cdef int bfloat16_number = -1  # NumPy's, of ml_dtypes' dtype, once it was seen


cdef int note_bfloat16(dtype) except -1:
    global bfloat16_number
    if isinstance(dtype, np.dtype) and is_bfloat16(dtype):
        bfloat16_number = dtype.num
    return 0


cdef int set_format(fa_format *format, rule, slot) except -1:
    """How an array's numbers are stored."""
    cdef dict codecs = {BFLOAT16: FA_BFLOAT16, FLOAT16: FA_FLOAT16}
    cdef Py_ssize_t k
    format.param = codecs.get(slot.param.dtype, FA_PLAIN)
    for k, state in enumerate(slot.state):
        if not is_code(state):
            continue
        name = rule.states[k]
        format.state[k] = FA_BFLOAT16
        if state.dtype == INT8:
            format.state[k] = FA_POSITIVE8 if name in rule.positive else FA_SIGNED8
            if name in rule.units:
                format.unit[k] = 1 + rule.states.index(rule.units[name])
                format.root = rule.roots
    return 0


cdef inline bint is_as_made(const Watched *watched) noexcept:
    """Whether the user's array lies and looks as it did when the batch was made."""
    cdef cnp.ndarray user = <cnp.ndarray>watched.user
    return (
        cnp.PyArray_BYTES(user) == watched.data
        and cnp.PyArray_FLAGS(user) & cnp.NPY_ARRAY_WRITEABLE
        and has_form(user, &watched.layout)
        and equal(cnp.PyArray_STRIDES(user), watched.strides, watched.layout.ndim)
    )


cdef cnp.npy_intp *copy_of(const cnp.npy_intp *numbers, Py_ssize_t n, cnp.npy_intp **room) noexcept:
    """Copy numbers to the front of the room, and shorten the room."""
    cdef cnp.npy_intp *copy = room[0]
    if n > 0:  # an array without axes has no numbers, and memcpy wants an address
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
