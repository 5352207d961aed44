"""The same bytes from every backend and instruction set, at every length and offset."""

import itertools

import numpy as np
import pytest
from formats import code_bits
from reference import bits, rule

import fastadam
from fastadam import _backend

OPTIONS = [
    {"weight_decay": wd, "decoupled_weight_decay": dec, "maximize": mx, "epsilon_hat": hat}
    for wd, dec, mx, hat in itertools.product((0.0, 0.1), *[(False, True)] * 3)
]
DTYPES = [np.float32, np.float64]
# Around every vector width, around where the kernel starts to align, and beyond a block.
LENGTHS = [*range(68), 127, 128, 129, 1023, 1024, 1025, 1039, 4099, 65536 + 3]


def wide(rng, n, dtype, spread):
    """Numbers over many decades, with all kinds of special ones among them."""
    info = np.finfo(dtype)
    x = (rng.standard_normal(n) * 10.0 ** rng.uniform(-spread, spread, n)).astype(dtype)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, info.smallest_normal,
         info.smallest_subnormal, -info.smallest_normal / 2, 1.0],
        dtype,
    )  # fmt: skip
    if n > 20:
        where = rng.integers(0, n, n // 16)
        x[where] = rng.choice(special, where.size)
    return x


def check(p, g, m, v, vmax, step, options):
    expected = rule(
        p, g, m, v, vmax, step, lr=0.1,
        **{k.replace("decoupled_weight_decay", "decoupled"): x for k, x in options.items()},
    )  # fmt: skip
    fastadam.adam_step(p, g, m, v, step=step, max_exp_avg_sq=vmax, lr=0.1, **options)
    for name, got, want in zip("pmvx", (p, m, v, vmax), expected, strict=True):
        if want is not None:
            assert bits(got) == bits(want), f"{name} differs"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_every_length(dtype, amsgrad, options):
    rng = np.random.default_rng(1)
    for n in LENGTHS:
        p, g, m = (wide(rng, n, dtype, 20) for _ in range(3))
        v = np.abs(wide(rng, n, dtype, 30))
        vmax = np.abs(wide(rng, n, dtype, 30)) if amsgrad else None
        check(p, g, m, v, vmax, int(rng.integers(1, 4000)), {**options, "loss_scale": 3.0})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 17, 64, 1100])
def test_every_offset(dtype, n):
    """Results do not depend on where in a cache line each array begins."""
    rng = np.random.default_rng(2)
    for offset in range(16):
        p, g, m, v = (
            np.abs(wide(rng, n + 64, dtype, 5))[k * offset % 16 :][:n] for k in (1, 3, 5, 7)
        )
        check(p, g, m, v, None, 7, {"weight_decay": 0.1})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS[:2] + OPTIONS[-2:])
def test_products_of_special_values(dtype, options):
    """All combinations of special values in the parameter, the gradient and the state."""
    info = np.finfo(dtype)
    numbers = [0.0, -0.0, 1.0, -2.0, info.max, -info.max, np.inf, -np.inf, np.nan]
    tiny = [info.smallest_normal, -info.smallest_subnormal, info.smallest_normal / 3]
    special = numbers + tiny
    p, g, m, v = (
        np.array(column, dtype)
        for column in zip(*itertools.product(special, repeat=4), strict=True)
    )
    for amsgrad in (False, True):
        vmax = np.roll(np.abs(v), 5) if amsgrad else None
        check(p.copy(), g, m.copy(), v.copy(), vmax, 3, options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_arrays_beyond_the_caches(dtype, amsgrad, weight_decay):
    """From 2**21 elements on the kernels prefetch, in pieces of a few lines."""
    rng = np.random.default_rng(3)
    n = 2**21 + 77
    p, g, m, v = (
        np.tile(np.abs(wide(rng, 9973, dtype, 5)), n // 9973 + 1)[3 : n + 3] for _ in "pgmv"
    )
    vmax = v.copy() if amsgrad else None
    check(p, g, m, v, vmax, 9, {"weight_decay": weight_decay})


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_is_two_reals(dtype):
    rng = np.random.default_rng(3)
    real = np.zeros(0, dtype).real.dtype
    arrays = [np.abs(wide(rng, 202, real, 9)) for _ in range(4)]
    p, g, m, v = (array.copy().view(dtype) for array in arrays)
    fastadam.adam_step(p, g, m, v, step=2)
    fastadam.adam_step(*arrays[:1], arrays[1], *arrays[2:], step=2)
    for got, want in zip((p, m, v), (arrays[0], *arrays[2:]), strict=True):
        assert bits(got) == bits(want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_amsgrad_nan_stays(dtype):
    """The last elements of an odd length must not drop a NaN (torch's fused tail does)."""
    p, m, v, vmax = (np.ones(13, dtype) for _ in range(4))
    vmax[-1] = np.nan
    fastadam.adam_step(p, np.ones(13, dtype), m, v, step=1, max_exp_avg_sq=vmax)
    assert np.isnan(vmax[-1])
    assert np.isnan(p[-1])
    assert not np.isnan(p[:-1]).any()


def test_training_in_parts_is_training_in_one():
    """Many steps on one array, and on its pieces with their own states."""
    rng = np.random.default_rng(4)
    whole = rng.standard_normal(1003).astype(np.float32)
    pieces = [piece.copy() for piece in np.split(whole, [1, 10, 500, 507])]
    one, many = fastadam.AdamW(whole, lr=0.01), fastadam.AdamW(pieces, lr=0.01)
    for _ in range(30):
        g = rng.standard_normal(1003).astype(np.float32)
        one.step(g)
        many.step(np.split(g, [1, 10, 500, 507]))
    assert whole.tobytes() == np.concatenate(pieces).tobytes()


def coded(rng, n, param, moments, offset=0):
    """Arrays for a step, of which some are codes, each in a place of its own in a cache line."""

    def placed(values, k):
        room = np.zeros(values.size + 64, values.dtype)[k * offset % 32 :][: values.size]
        room[...] = values
        return room

    def drawn(dtype, k):
        with np.errstate(over="ignore"):
            return placed(wide(rng, n, np.float32, 4).astype(dtype), k)

    p, g, m, v = (drawn(dtype, k) for k, dtype in enumerate((param, param, moments, moments), 1))
    v = placed(np.abs(v), 9)
    rest = None
    if param == np.float16:
        rest = placed(p.astype(np.float32), 5)
    elif param != np.float32:
        rest = placed(rng.integers(-(2**15), 2**15, n).astype(np.int16), 5)
    return [p, g, m, v, rest]


def check_coded(rng, n, param, moments, offset=0):
    """A step gives the bytes that it gives in NumPy, and writes nothing beside its arrays."""
    arrays = coded(rng, n, param, moments, offset)
    plain = [None if array is None else array.copy() for array in arrays]
    around = [None if array is None else array.base.copy() for array in arrays]
    options = {"step": 3, "lr": 0.1, "weight_decay": 0.1, "seed": 77}
    p, g, m, v, rest = arrays
    fastadam.adam_step(p, g, m, v, param_rest=rest, **options)
    with _backend.using("numpy"):
        p, g, m, v, rest = plain
        fastadam.adam_step(p, g, m, v, param_rest=rest, **options)
    for array, expected, before in zip(arrays, plain, around, strict=True):
        if array is not None:
            assert code_bits(array) == code_bits(expected)
            array[...] = 0
            start = (array.ctypes.data - array.base.ctypes.data) // array.itemsize
            before[start : start + n] = 0
            assert code_bits(array.base) == code_bits(before)


CODED = [
    ("float32", "bfloat16"),
    ("float16", "float32"),
    ("float16", "bfloat16"),
    ("bfloat16", "float32"),
    ("bfloat16", "bfloat16"),
]


@pytest.fixture
def dtypes(request):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    names = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
    return [names[name] for name in request.param]


@pytest.mark.parametrize("dtypes", CODED, indirect=True)
def test_every_length_of_codes(dtypes):
    rng = np.random.default_rng(5)
    for n in [*range(200), *LENGTHS[-6:], 8 * 64, 12 * 64 + 1]:
        check_coded(rng, n, *dtypes)


@pytest.mark.parametrize("n", [3, 64, 130, 1100])
@pytest.mark.parametrize("dtypes", CODED, indirect=True)
def test_every_offset_of_codes(dtypes, n):
    rng = np.random.default_rng(6)
    for offset in range(32):
        check_coded(rng, n, *dtypes, offset)
