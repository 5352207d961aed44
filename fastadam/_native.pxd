# What _native.pyx shares with other extensions of this package, such as torch/_tensors.pyx.

from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport int64_t, uintptr_t
cimport cython
cimport numpy as cnp

cdef extern from "fastadam.h":
    enum: FA_FLOAT32, FA_FLOAT64, FA_STATES, FA_NUMBERS
    enum: FA_PLAIN, FA_BFLOAT16, FA_FLOAT16, FA_POSITIVE8, FA_SIGNED8
    ctypedef struct fa_hyper:
        double lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay
        double amsgrad, maximize, epsilon_hat
    ctypedef struct fa_streams:
        void *param
        void *rest
        void *state[FA_STATES]
        void *average
    ctypedef struct fa_format:
        unsigned char param
        unsigned char state[FA_STATES]
        unsigned char unit[FA_STATES]
        unsigned char root
    ctypedef struct fa_array:
        fa_streams streams
        fa_format format
        int64_t size, origin
        int group, dtype
        int64_t step
        double numbers[FA_NUMBERS]
    ctypedef struct fa_constants:
        pass
    ctypedef struct fa_job:
        fa_array *array
        const void *grad
        int codec
        int64_t size
        const int64_t *rows
        int64_t width
    enum fa_norm: FA_NO_NORM, FA_MEASURED, FA_GIVEN
    ctypedef struct fa_batch:
        int isa, rule, threads
        const fa_hyper *groups
        fa_job *jobs
        int64_t n_jobs
        double loss_scale
        fa_norm norm
        double grad_norm, max_grad_norm
        int skip_nonfinite
        fa_constants *constants
        double *sums


# How an array lies in memory. Kept apart from the array that it describes: to look only at it
# saves a cache line or two.
cdef struct Layout:
    void *descr  # or another with
    int type_number
    int ndim
    int orders  # of BOTH_ORDERS, those that the array has
    const cnp.npy_intp *shape
    const cnp.npy_intp *strides


# Memory that a step writes.
cdef struct Interval:
    uintptr_t start
    uintptr_t end


# An array of the user's that a step writes, as it was when the batch was made.
cdef struct Watched:
    PyObject *user
    char *data
    const cnp.npy_intp *strides
    Layout layout  # of a parameter: that of the plain array in whose order gradients must come
    Py_ssize_t place  # see `touches`


@cython.final
cdef class Place:
    cdef unsigned long thread
    cdef Place next


@cython.final
cdef class Lock:
    cdef unsigned long owner
    cdef bint held
    cdef Place first  # in the queue
    cdef Py_ssize_t n_forks  # of `survivors`, those that this lock knows of
    cdef str reason  # see `refusal`
    cdef PyThread_type_lock guard  # of the above

    cdef int acquire(self) except -1
    cdef bint take(self, unsigned long thread) except -1
    cdef int wait(self, unsigned long thread) except -1
    cdef void notice_forks(self) noexcept
    cdef bint survived(self, unsigned long thread) noexcept
    cdef bint append(self, Place place) noexcept
    cdef void remove(self, Place place) noexcept
    cdef void release(self) noexcept


@cython.final
cdef class Hold:
    cdef Lock lock
    cdef bint is_held


@cython.final
cdef class Leaves:
    cdef Py_ssize_t first, size


@cython.final
cdef class Batch:
    cdef readonly object arrays
    cdef object spec
    cdef Lock lock
    cdef public object sums  # of the gradients that accumulate kept, or None
    cdef public bint retired  # whether the optimizer has another batch now
    cdef int64_t elements  # of all arrays
    cdef list copies  # (index, user's array, plain array)
    cdef list seen  # for each group, the keys and values that c_groups was made from
    cdef list scheduled  # for each group, its Hyper if its lr is a function, else None
    cdef readonly int64_t finished, skipped
    cdef Py_ssize_t n, n_groups, n_watched, n_written
    cdef fa_batch batch
    cdef fa_array *c_arrays
    cdef fa_hyper *c_groups
    cdef int *kept  # for each group, which states all of its arrays have
    cdef PyObject **held  # gradients, owned during a step, so that nobody can free them
    cdef Watched *watched  # the parameters, then whatever else is the user's
    cdef Interval *written
    cdef cnp.npy_intp *lengths  # of the watched arrays: shapes and strides
    cdef object nest  # the user's, in which the parameters must stay, or None

    cpdef step_held(self, grads, groups, loss_scale, int most_threads=*, norm=*)
    cdef bint has_params(self, object spec, object nest) noexcept
    cdef bint has_child(self, object spec, PyObject *now) noexcept
    cdef bint has_leaves(self, Leaves spec, object nest) noexcept
    cdef int take_all(self, grads) except -1
    cdef object mended(self, Py_ssize_t i, grad)
    cdef bint match(self, object spec, object grads) except -1
    cdef void hold(self, Py_ssize_t i, object grad) noexcept
    cdef bint claim_held(self, bint mended=*) noexcept
    cdef bint claim_one(self, Py_ssize_t i, bint mended) noexcept
    cdef int fits(self, Py_ssize_t i, object grad, bint mended=*) noexcept
    cdef int codec_of_another(self, Py_ssize_t i, cnp.ndarray grad, bint mended) noexcept
    cdef fa_job *claim(self, Py_ssize_t i, const void *grad, int codec) noexcept
    cdef void release(self) noexcept
    cdef int run(self, int most_threads) except -1
    cdef int load_group(self, Py_ssize_t i, hyper) except -1
    cdef int load_groups(self, groups, loss_scale) except -1


cdef bint touches(
    const Interval *written, Py_ssize_t n, uintptr_t start, size_t size, Py_ssize_t *place
) noexcept
cdef bint has_items(mapping, list seen) noexcept
cdef void *allocate(Py_ssize_t n, size_t size) except NULL
