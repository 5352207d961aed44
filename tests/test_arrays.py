"""Any array a user has: what the kernels cannot walk is stepped just as well."""

import ctypes
import mmap

import numpy as np
import pytest
from reference import rule

import fastadam

RNG = np.random.default_rng(8)


def expected(p, *grads, **options):
    """What steps make of a copy of p with zero state; complex as two reals."""
    real = p.real.dtype
    p = np.array(p, order="C")
    shape, dtype = p.shape, p.dtype
    p = p.reshape(-1).view(real)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        g = np.array(g, order="C").reshape(-1).view(real)
        p, m, v, _ = rule(p, g, m, v, None, t, **options)
    return p.view(dtype).reshape(shape)


def normal(shape, dtype=np.float32):
    x = RNG.standard_normal(shape)
    return (x + 1j * RNG.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def unaligned(x):
    """The same values one byte off."""
    raw = np.empty(x.nbytes + 1, np.uint8)
    out = raw[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    assert not out.flags.aligned
    return out


LAYOUTS = {
    "C": lambda x: np.array(x, order="C"),
    "F": lambda x: np.array(x, order="F"),
    "axes permuted": lambda x: np.array(x.transpose(1, 2, 0), order="C").transpose(2, 0, 1),
    "every other": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: np.array(x[::-1])[::-1],
    "unaligned": unaligned,
    "unaligned F": lambda x: unaligned(np.array(x.T)).T,
    "a slice of rows": lambda x: np.concatenate([x, x])[: len(x)],
    "a slice of columns": lambda x: np.concatenate([x, x], axis=2)[..., : x.shape[2]],
}


@pytest.mark.parametrize("p_layout", LAYOUTS)
@pytest.mark.parametrize("g_layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_every_pair_of_layouts(p_layout, g_layout, dtype):
    values, grads = normal((3, 4, 5), dtype), normal((3, 3, 4, 5), dtype)
    p = LAYOUTS[p_layout](values)
    guard = p.base.copy() if p.base is not None else None
    opt = fastadam.AdamW(p, lr=0.1)
    for g in grads:
        opt.step(LAYOUTS[g_layout](g))
    want = expected(values, *grads, lr=0.1, weight_decay=0.01, decoupled=True)
    assert np.array_equal(p, want)
    if guard is not None:  # nothing beside the view was written
        p[...] = 0
        base = p.base.copy()
        p[...] = values
        assert np.array_equal(p.base, guard)
        p[...] = 0
        assert np.array_equal(p.base, base)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adam_step_takes_state_in_any_layout(layout):
    values, g = normal((3, 4, 5), np.float64), normal((3, 4, 5), np.float64)
    p, m, v, vmax = (
        LAYOUTS[layout](values), np.zeros((3, 4, 5)), LAYOUTS[layout](np.zeros((3, 4, 5))),
        np.zeros((3, 4, 5), order="F"),
    )  # fmt: skip
    want = rule(values, g, np.zeros_like(g), np.zeros_like(g), np.zeros_like(g), 1)
    fastadam.adam_step(p, g, m, v, step=1, max_exp_avg_sq=vmax)
    for got, expect in zip((p, m, v, vmax), want, strict=True):
        assert np.array_equal(got, expect)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_small_shapes(shape, dtype):
    p, g = (
        normal(shape, dtype) * np.ones(shape, dtype),
        normal(shape, dtype) * np.ones(shape, dtype),
    )
    p, g = np.array(p), np.array(g)
    want = expected(p, g)
    fastadam.Adam(p).step(g)
    assert p.shape == shape
    assert np.array_equal(p, want)


def test_axes_of_length_1():
    p = np.zeros((4, 5, 6)).transpose(1, 0, 2)[:, None]
    g = np.ones(p.shape)
    fastadam.Adam(p, lr=0.5).step(g)
    assert np.allclose(p, -0.5)


def test_numpy_scalar_as_gradient_of_0d():
    p = np.array(2.0, np.float32)
    fastadam.Adam(p, lr=0.5).step(np.float32(3))
    assert p == 1.5


def test_read_only_and_memory_mapped_gradients(tmp_path):
    values, g = normal(50), normal(50)
    path = tmp_path / "gradient.bin"
    g.tofile(path)
    p = values.copy()
    opt = fastadam.Adam(p)
    frozen = g.copy()
    frozen.flags.writeable = False
    opt.step(frozen)
    opt.step(np.memmap(path, np.float32, "r"))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        view = np.frombuffer(pages, np.float32)
        opt.step(view)
        del view
    assert np.array_equal(p, expected(values, g, g, g))


def test_memory_mapped_parameters(tmp_path):
    values, g = normal(50), normal(50)
    path = tmp_path / "parameters.bin"
    values.tofile(path)
    p = np.memmap(path, np.float32, "r+")
    fastadam.Adam(p).step(g)
    p.flush()
    assert np.array_equal(np.fromfile(path, np.float32), expected(values, g))


class TestOverlap:
    """A gradient is read as it was when the step began."""

    def test_gradient_is_the_parameter(self):
        p = normal(100)
        want = expected(p, p)
        fastadam.Adam(p).step(p)
        assert np.array_equal(p, want)

    def test_shifted_views_of_one_buffer(self):
        for shift in (1, 3, 8, 90):
            buffer = normal(200)
            p, g = buffer[shift : shift + 100], buffer[:100]
            want = expected(p, g)
            fastadam.Adam(p).step(g)
            assert np.array_equal(p, want)

    def test_gradients_are_each_others_parameters(self):
        """The gradient of x.y: a step on x must not change y's gradient."""
        x, y = normal(100), normal(100)
        want = expected(x, y), expected(y, x)
        fastadam.Adam([x, y]).step([y, x])
        assert np.array_equal(x, want[0])
        assert np.array_equal(y, want[1])

    def test_among_many_arrays(self):
        buffer = normal((40, 10))
        params = list(buffer)
        order = RNG.permutation(40)
        want = [expected(p, params[k]) for p, k in zip(params, order, strict=True)]
        fastadam.Adam(params).step([params[k] for k in order])
        for p, w in zip(params, want, strict=True):
            assert np.array_equal(p, w)

    def test_one_gradient_for_two_parameters(self):
        p, q, g = normal(20), normal(20), normal(20)
        want = expected(p, g), expected(q, g)
        fastadam.Adam([p, q]).step([g, g])
        assert np.array_equal(p, want[0])
        assert np.array_equal(q, want[1])

    def test_an_empty_gradient_inside_a_parameter(self):
        p = normal((4, 5))
        want = expected(p, np.ones_like(p))
        fastadam.Adam([p, np.zeros(0, np.float32)]).step([np.ones_like(p), p[2][:0]])
        assert np.array_equal(p, want)

    def test_in_adam_step(self):
        p, q, m = normal(20), normal(20), np.zeros((4, 20), np.float32)
        want = expected(p, q), expected(q, p)
        fastadam.adam_step([p, q], [q, p], [m[0], m[1]], [m[2], m[3]], step=1)
        assert np.array_equal(p, want[0])
        assert np.array_equal(q, want[1])


def test_interleaved_parameters_do_not_share_memory():
    buffer = normal((5, 6))
    start, g = buffer.copy(), normal((5, 6))
    columns = [buffer[:, i] for i in range(6)]
    fastadam.Adam(columns).step([g[:, i] for i in range(6)])
    assert np.array_equal(buffer, expected(start, g))


def test_gradients_are_never_written():
    for layout in LAYOUTS.values():
        p, g = normal((3, 4, 5)), layout(normal((3, 4, 5)))
        before = g.copy()
        opt = fastadam.Adam(p, maximize=True, weight_decay=0.1)
        opt.step(g, loss_scale=2.0)
        assert np.array_equal(g, before)


def test_array_objects_of_other_libraries():
    class Foreign:
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return self.values

    p, g = normal(9), normal(9)
    want = expected(p, g)
    fastadam.Adam(p).step(Foreign(g))
    assert np.array_equal(p, want)


def _shared(kind):
    """A parameter and a gradient in one memory, which belongs to what `kind` says."""
    whole = np.arange(1.0, 7.0)
    return {
        "the parameter": lambda: (whole, whole[:]),
        "the gradient": lambda: (whole[:], whole),
        "a third array": lambda: (whole[:4], whole[2:]),
        "a buffer of the gradient": lambda: (np.frombuffer(memoryview(whole)), whole),
        "a subclass": lambda: (whole.view(np.memmap)[:], whole),
        "bytes": lambda: (np.frombuffer(memory := bytearray(whole)), np.frombuffer(memory)),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    ["the parameter", "the gradient", "a third array", "a buffer of the gradient", "a subclass",
     "bytes"],
)  # fmt: skip
def test_a_gradient_in_the_memory_of_a_parameter(kind):
    p, g = _shared(kind)
    assert np.shares_memory(p, g)
    q, first = np.zeros(g.shape), np.ones(p.shape)
    expected = -0.5 * g
    fastadam.SGD([p, q], lr=0.5).step([first, g])  # p is stepped first
    assert np.array_equal(q, expected)


@pytest.mark.parametrize("shift", [-8, -1, 1, 8])
@pytest.mark.parametrize("layout", ["plain", "reversed", "strided"])
def test_a_parameter_that_was_shifted_within_its_memory(layout, shift):
    memory = np.zeros(200, np.uint8)
    offset = 64 - memory.ctypes.data % 64
    p = memory[offset : offset + 64].view(np.float64)
    p = {"plain": p, "reversed": p[::-1], "strided": p[::2]}[layout]
    opt = fastadam.Adam(p)
    opt.step(np.ones(p.shape))
    # As NumPy's setter of `data` did, which its newest versions do not have.
    address = ctypes.c_void_p.from_address(id(p) + object.__basicsize__)
    assert address.value == p.ctypes.data
    address.value += shift
    with pytest.raises(ValueError, match="was resized"):
        opt.step(np.ones(p.shape))
