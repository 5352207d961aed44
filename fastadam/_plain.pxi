# What an array must look like for C to walk it, and what memory a step writes; a part of
# _native.pyx. Their Python twins are in _slots.py and _arrays.py.

cdef enum:
    BOTH_ORDERS = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS


cdef inline Layout layout_of(cnp.ndarray array) noexcept:
    cdef Layout layout
    layout.descr = PyArray_DESCR(array)
    layout.type_number = cnp.PyArray_TYPE(array)
    layout.ndim = cnp.PyArray_NDIM(array)
    layout.orders = cnp.PyArray_FLAGS(array) & BOTH_ORDERS
    layout.shape = cnp.PyArray_DIMS(array)
    layout.strides = cnp.PyArray_STRIDES(array)
    return layout


cdef inline bint has_form(cnp.ndarray array, const Layout *layout) noexcept:
    """Whether the array has that dtype and shape."""
    return (
        (PyArray_DESCR(array) == layout.descr or has_type(array, layout.type_number))
        and cnp.PyArray_NDIM(array) == layout.ndim
        and equal(cnp.PyArray_DIMS(array), layout.shape, layout.ndim)
    )


cdef bint has_type(cnp.ndarray array, int number) noexcept:
    """Unpickled arrays have a dtype object of their own."""
    return cnp.PyArray_TYPE(array) == number and cnp.PyArray_ISNOTSWAPPED(array)


cdef inline bint is_walked_as(cnp.ndarray array, const Layout *layout) noexcept:
    """Whether C may walk the array's memory along with an array of that layout."""
    cdef int flags = cnp.PyArray_FLAGS(array)
    return (
        flags & cnp.NPY_ARRAY_ALIGNED
        and has_form(array, layout)
        and (flags & layout.orders or has_steps(array, layout))
    )


cdef bint has_steps(
    cnp.ndarray array, const Layout *layout, int size=1, int expected_size=1
) noexcept:
    """Whether the strides are the same, in elements of these sizes.

    Along an axis of length 1 they do not matter.
    """
    cdef int i
    for i in range(layout.ndim):
        if (
            cnp.PyArray_STRIDES(array)[i] * expected_size != layout.strides[i] * size
            and layout.shape[i] != 1
        ):
            return False
    return True


cdef inline bint equal(const cnp.npy_intp *a, const cnp.npy_intp *b, int n) noexcept:
    cdef int i
    for i in range(n):
        if a[i] != b[i]:
            return False
    return True


cdef bint touches(
    const Interval *written, Py_ssize_t n, uintptr_t start, size_t size, Py_ssize_t *place
) noexcept:
    """Whether memory lies in any of n sorted, disjoint intervals; see _arrays.Spans.

    `place` is how many of them began before the end of the last memory asked about.
    """
    if size == 0:
        return False
    cdef uintptr_t end = start + size
    cdef Py_ssize_t low = min(place[0], n), high = n, middle
    # Gradients mostly come from where the last ones were.
    if (low == 0 or written[low - 1].start < end) and (low == high or written[low].start >= end):
        return low > 0 and written[low - 1].end > start
    low = 0
    while low < high:  # find the first interval that begins at or behind the end
        middle = (low + high) // 2
        if written[middle].start < end:
            low = middle + 1
        else:
            high = middle
    place[0] = low
    return low > 0 and written[low - 1].end > start


cdef inline int real_dtype(cnp.ndarray array) noexcept:
    """The dtype of the array's real numbers, or -1."""
    cdef int number = cnp.PyArray_TYPE(array)
    if not cnp.PyArray_ISNOTSWAPPED(array):
        return -1
    if number == cnp.NPY_FLOAT32 or number == cnp.NPY_COMPLEX64:
        return FA_FLOAT32
    return FA_FLOAT64 if number == cnp.NPY_FLOAT64 or number == cnp.NPY_COMPLEX128 else -1


cdef inline int reals(cnp.ndarray array) noexcept:
    """How many real numbers an element is."""
    return 2 if cnp.PyArray_ISCOMPLEX(array) else 1
